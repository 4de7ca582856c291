"""A coverage-guided fuzz of octavo.gguf.load: whatever the bytes, it gives tensors or says ValueError, in bounded time.

    pip install atheris gguf
    python tests/helpers/fuzz_gguf.py --seeds seeds/
    python tests/helpers/fuzz_gguf.py corpus/ seeds/ tests/data/fuzz_gguf/ -max_total_time=600 -max_len=2000 -timeout=20

What is loaded is converted too, and has to be the same once it is loaded from there. test_gguf_fuzz_corpus.py replays
the corpus.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def check(data: bytes, path: Path) -> bool:
    """Loads the input by way of a file at `path`; whether it was accepted. Anything but ValueError is a find."""
    import octavo as oc
    from octavo.gguf import _convert, _report

    path.write_bytes(data)
    try:
        _report.report(path)
        tensors, _ = oc.gguf.load(path)
    except ValueError:
        return False
    if not tensors:  # which is nothing to convert
        return True
    converted = path.with_suffix(".safetensors")
    _convert.convert(path, converted)
    loaded = oc.load(converted)
    for name, value in flat(tensors):
        same(value, loaded[name])
    return True


def flat(tensors: Any, prefix: str | None = None) -> Iterator[tuple[str, Any]]:
    """(name, matrix or array) of nested dicts and lists."""
    items = tensors.items() if isinstance(tensors, dict) else enumerate(tensors)
    for key, value in items:
        name = str(key) if prefix is None else f"{prefix}.{key}"
        if isinstance(value, (dict, list)):
            yield from flat(value, name)
        else:
            yield name, value


def same(a: Any, b: Any) -> None:
    """Raises AssertionError where two matrices or arrays differ in a bit."""
    import numpy as np

    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert repr(a) == repr(b)
        assert a.dequantize().tobytes() == b.dequantize().tobytes()
        x = np.ones((1, a.shape[1]), np.float32)
        np.testing.assert_array_equal(x @ a.T, x @ b.T)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small files, one a type, with metadata of every kind."""
    import struct

    from gguf_files import key, random_blocks, tensor, text, whole
    from octavo.gguf._blocks import DECODERS
    from octavo.gguf._types import BY_NAME

    keys = [
        key("general.alignment", 4, struct.pack("<I", 32)),
        key("w", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        key("n", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ2B", 7, 2, 0, 1)),
    ]
    for name in DECODERS:
        kind = BY_NAME[name]
        data = random_blocks(name, 2, 1).tobytes()
        data += b"\0" * (-len(data) % 32)
        tensors = [tensor("a.w", (kind.block, 2), kind.number, 0), tensor("b", (2,), 0, len(data))]
        yield name, whole(keys, tensors, data + struct.pack("<2f", 1, -2))
    yield "experts", whole([], [tensor("e", (32, 1, 2), 2, 0)], random_blocks("Q4_0", 2, 1).tobytes())
    yield "BF16", whole([], [tensor("b", (2,), 30, 0)], bytes(4))


def main() -> None:
    if sys.argv[1] == "--seeds":
        folder = Path(sys.argv[2])
        folder.mkdir(exist_ok=True)
        for name, data in seeds():
            (folder / name).write_bytes(data)
        return
    import atheris

    with atheris.instrument_imports(include=["octavo"]):
        check(b"", Path(os.devnull))  # imports all that it needs

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder, "x.gguf")
        atheris.Setup(sys.argv, lambda data: check(data, path) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

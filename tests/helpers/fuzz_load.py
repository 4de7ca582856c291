"""A coverage-guided fuzz of octavo.load: whatever the bytes, it gives a model or says ValueError.

    pip install atheris
    python tests/helpers/fuzz_load.py corpus/ tests/data/fuzz_load/ -max_total_time=600 -rss_limit_mb=2048

An input that starts with "=" is put together into a file with right lengths and checksums, so that the fuzzer gets past
these: "=", the octavo header, a line "--", the safetensors entries, a line "--", the data. Any other input is a file.
What is loaded has to survive saving and loading again. test_fuzz_corpus.py replays the corpus.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

SEPARATOR = b"\n--\n"
LARGEST = 1 << 16  # the layers of an accepted input are run, up to this many weights


def assembled(data: bytes) -> bytes | None:
    """The file that a structured input describes, or None."""
    pieces = data[1:].split(SEPARATOR, 2)
    if len(pieces) != 3:
        return None
    header, entries, tensors = pieces
    try:
        text = json.dumps(header.decode())
    except UnicodeDecodeError:
        return None
    metadata = f'{{"__metadata__":{{"octavo":{text},"octavo.crc32":"{zlib.crc32(header):08x}"}}'.encode()
    body = entries.lstrip()[1:]
    head = metadata + (b"" if body.lstrip().startswith(b"}") else b",") + body
    return len(head).to_bytes(8, "little") + head + tensors


def taken_apart(file: bytes) -> bytes:
    """The structured input that stands for a file."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    own = header.pop("__metadata__")["octavo"].encode()
    return b"=" + own + SEPARATOR + json.dumps(header).encode() + SEPARATOR + file[8 + length :]


@contextlib.contextmanager
def unverified() -> Iterator[None]:
    """Without checksums of tensors, which a fuzzer would have to guess."""
    from octavo._files import save_load as io

    with mock.patch.object(io, "_verify", return_value=None):
        yield


def check(data: bytes, path: Path) -> bool:
    """Loads the input by way of a file at `path`; whether it was accepted. Anything but ValueError is a find."""
    structured = data.startswith(b"=")
    file = assembled(data) if structured else data
    if file is None:
        return False
    path.write_bytes(file)
    with unverified() if structured else contextlib.nullcontext():
        return _check(path)


def _check(path: Path) -> bool:
    import octavo as oc

    try:
        found = oc.load(path)
    except ValueError:
        return False
    again = path.with_suffix(".again")
    try:
        oc.save(found, again)
    except ValueError:  # it holds nothing
        assert not found
        return True
    with open(again, "rb") as file:
        assert file.read(8)
    second = oc.load(again)
    assert found.keys() == second.keys(), (sorted(found), sorted(second))
    for name, value in found.items():
        _same(value, second[name])
    skeleton = dict.fromkeys(found)
    oc.load(again, skeleton)
    assert skeleton.keys() == found.keys()
    assert all(value is not None for value in skeleton.values())
    return True


def _same(a: Any, b: Any) -> None:
    import numpy as np

    import octavo as oc

    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, oc.QuantLinear):
        assert repr(a) == repr(b)
        assert a.scale.tobytes() == b.scale.tobytes()
        assert a.zero_point.tobytes() == b.zero_point.tobytes()
        assert (a.int_repr() == b.int_repr()).all()
        if type(a) is oc.QuantLinear and a.in_features * a.out_features <= LARGEST:
            x = np.ones((1, a.in_features), np.float32)
            assert a(x).tobytes() == b(x).tobytes()
    else:
        assert repr(a) == repr(b)


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["octavo"]):
        import octavo.io  # noqa: F401  instrumented by being imported here

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder, "x.safetensors")
        atheris.Setup(sys.argv, lambda data: check(data, path) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

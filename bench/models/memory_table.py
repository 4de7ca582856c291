"""What models take with float32, float16, int8 and int4 weights, in a file and in memory.

    python -m bench.models.memory_table

First a small language model whose files are written, loaded, and asked for their sizes. Then the shapes of Llama 2 7B,
whose files are not written: bytes are those of a layer of each shape, made once of zeros, times how many there are. The
arithmetic to meet is 7 billion times 4, 2, 1 and 1/2 bytes: 28, 14, 7 and 3.5 GB.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import octavo as oc
from octavo._files.conversion import quantize_checkpoint
from octavo._files.sizes import Shape, memory_table

WIDTH, HIDDEN, BLOCKS, VOCABULARY = 768, 3072, 4, 8192

LLAMA_7B = {Shape(4096, 4096): 4 * 32, Shape(11008, 4096): 2 * 32, Shape(4096, 11008): 32, Shape(32000, 4096): 1}
LLAMA_7B_REST = 32000 * 4096 + (2 * 32 + 1) * 4096  # embeddings and norms


def checkpoint() -> dict[str, np.ndarray]:
    """Random weights in the shapes of a small GPT."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCABULARY, WIDTH), "head.weight": (VOCABULARY, WIDTH)}
    for i in range(BLOCKS):
        for name, n, k in (
            ("qkv", 3 * WIDTH, WIDTH),
            ("out", WIDTH, WIDTH),
            ("up", HIDDEN, WIDTH),
            ("down", WIDTH, HIDDEN),
        ):
            shapes[f"blocks.{i}.{name}.weight"] = (n, k)
            shapes[f"blocks.{i}.{name}.bias"] = (n,)
        shapes[f"blocks.{i}.norm.weight"] = (WIDTH,)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def measured(folder: Path) -> str:
    """The table of files that were written and loaded. Norms stay in the checkpoint's own type."""
    floats = checkpoint()
    save_file(floats, folder / "float32")
    half = {name: a.astype(np.float16) for name, a in floats.items()}
    save_file(half, folder / "float16")
    for dtype in ("int8", "int4"):
        quantize_checkpoint(folder / "float16", folder / dtype, dtype=dtype, rounding="nearest")
    memory = {"float32": sum(a.nbytes for a in floats.values()), "float16": sum(a.nbytes for a in half.values())}
    memory |= {dtype: sum(v.nbytes for v in oc.load(folder / dtype).values()) for dtype in ("int8", "int4")}
    lines = [f"{'':12}{'in the file':>16}{'in memory':>18}"]
    for dtype, loaded in memory.items():
        size = (folder / dtype).stat().st_size
        share = 100 * size / (folder / "float32").stat().st_size
        lines.append(f"{dtype:12}{size:>14,} B{loaded:>16,} B{share:>8.1f} %")
    return "\n".join(lines)


def main() -> None:
    count = sum(a.size for a in checkpoint().values())
    print(f"a small GPT, {count:,} weights, of which embeddings {VOCABULARY * WIDTH:,}: files written and loaded")
    with tempfile.TemporaryDirectory() as folder:
        print(measured(Path(folder)))
    linear = sum(shape.elems * times for shape, times in LLAMA_7B.items())
    print(f"\nLlama 2 7B, {linear + LLAMA_7B_REST:,} weights, embeddings and norms in float16: from shapes")
    print(memory_table(LLAMA_7B, LLAMA_7B_REST))
    print(f"\nits {linear:,} weights in linear layers alone")
    print(memory_table(LLAMA_7B))


if __name__ == "__main__":
    main()

"""What the recipes share: MiniLM int8 in a packed file, sentences in tasks, and the check of what comes back.

Every worker maps the same file, so a machine holds one copy of the weights, and computes with one thread. A task is a
list of tokenized sentences. Its embeddings have the same bits in every process, so a task can be run again anywhere.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the float products between octavo's
os.environ.setdefault("OMP_NUM_THREADS", "1")  # which octavo heeds, too
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import minilm
import numpy as np
from minilm_data import docstrings, model_folder, tokenized
from numpy.typing import NDArray

import octavo as oc

Tokens = list[list[int]]
WIDTH, INNER, LAYERS, VOCABULARY, POSITIONS = 48, 96, 2, 500, 32  # of the small random model


class Job(NamedTuple):
    path: str  # of the packed model
    tasks: list[Tokens]
    workers: int
    kill: bool  # a worker, with SIGKILL, while it works


def arguments(description: str | None, *, kill: bool = True, **choices: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--limit", type=int, default=2000, help="sentences at most (default: %(default)s)")
    parser.add_argument("--task", type=int, default=200, help="sentences a task (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a small random model, which needs no download")
    if kill:
        parser.add_argument("--kill", action="store_true", help="kill -9 a worker in the middle")
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values, default=values[0])
    return parser.parse_args()


def random_params() -> dict[str, Any]:
    """A model of MiniLM's form, small and random."""
    rng = np.random.default_rng(0)

    def some(*shape: int) -> NDArray[np.float32]:
        return 0.2 * rng.standard_normal(shape, dtype=np.float32)

    def layer() -> dict[str, Any]:
        shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, INNER), "down": (INNER, WIDTH)}
        found: dict[str, Any] = {name: some(*shape) for name, shape in shapes.items()}
        found |= {f"{name}_bias": some(shape[1]) for name, shape in shapes.items()}
        return found | {"out_norm": (some(WIDTH) + 1, some(WIDTH)), "down_norm": (some(WIDTH) + 1, some(WIDTH))}

    norm = (some(WIDTH) + 1, some(WIDTH))
    layers = [layer() for _ in range(LAYERS)]
    return {"words": some(VOCABULARY, WIDTH), "positions": some(POSITIONS, WIDTH), "norm": norm, "layers": layers}


@contextmanager
def job(args: argparse.Namespace) -> Iterator[Job]:
    """The model in a packed file, and the sentences in tasks."""
    if args.small:
        rng = np.random.default_rng(1)
        params = random_params()
        tokens = [rng.integers(0, VOCABULARY, rng.integers(2, POSITIONS)).tolist() for _ in range(args.limit)]
    else:
        params = minilm.load(model_folder())
        tokens = tokenized(model_folder(), docstrings(args.limit))
    model = oc.quantize_dynamic(params, arrays=minilm.WEIGHTS, activation="asymmetric")
    tasks = [tokens[start : start + args.task] for start in range(0, len(tokens), args.task)]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/minilm.safetensors"
        oc.save(model, path, layout="packed")
        yield Job(path, tasks, args.workers, getattr(args, "kill", False))


@functools.cache
def model(path: str) -> dict[str, Any]:
    """The model, once for each process. Its weights are the file's pages; who packed the file has verified it."""
    root: dict[str, Any] = {}
    for name, value in oc.load(path, mmap=True, verify=False).items():
        *way, last = name.split(".")
        at = root
        for key in way:
            at = at.setdefault(key, {})
        at[last] = value
    found: dict[str, Any] = as_lists(root)
    return found


def as_lists(tree: Any) -> Any:
    """Nested dicts, where those with keys 0, 1, .. become lists."""
    if not isinstance(tree, dict):
        return tree
    values = {key: as_lists(value) for key, value in tree.items()}
    return list(values.values()) if "0" in values else values


def embed(path: str, task: Tokens) -> NDArray[np.float32]:
    """What a worker does: (sentences, width)."""
    return minilm.embed_all(model(path), task, 1)


def check(job: Job, found: list[NDArray[np.float32]], engine: str) -> None:
    """Ends the program unless the result is complete, and equal to the bit to that of this process alone."""
    expected = [embed(job.path, task) for task in job.tasks]
    assert len(found) == len(expected), f"{len(found)} of {len(expected)} tasks came back"
    assert all(y.tobytes() == z.tobytes() for y, z in zip(found, expected, strict=True)), "other bits"
    sentences = sum(map(len, job.tasks))
    print(f"{engine}: {sentences} sentences in {len(found)} tasks, complete and equal to one process's bits")

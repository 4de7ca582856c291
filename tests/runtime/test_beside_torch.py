"""octavo and torch in one process. Both use the AMX tiles where the CPU has them: state of a thread, left to none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

import octavo as oc

torch = pytest.importorskip("torch", reason="what shares the tile registers; pip install torch to run this file")

M, K, N = 64, 512, 256
ROUNDS = 20

Products = dict[str, tuple[Callable[[], NDArray], NDArray]]  # name to a product and its right answer


@pytest.fixture
def products() -> Products:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((M, K), dtype=np.float32), rng.standard_normal((N, K), dtype=np.float32)
    # Small enough for sums of two products to fit int16, which torch saturates to on CPUs without VNNI, and for
    # bfloat16 to be exact.
    small_x, small_w = rng.integers(-8, 8, (M, K)), rng.integers(-8, 8, (K, N))
    expected = small_x @ small_w
    ints = torch.from_numpy(small_x.astype(np.int8)), torch.from_numpy(small_w.astype(np.int8))
    halves = ints[0].bfloat16(), ints[1].bfloat16()
    layer = oc.QuantLinear(w)
    with oc.use_kernel("scalar"):
        right = layer(x)
    rounded = torch.from_numpy(expected).bfloat16().float().numpy()
    return {
        "octavo": (lambda: layer(x), right),
        "torch int8": (lambda: torch._int_mm(*ints).numpy(), expected),
        "torch bfloat16": (lambda: (halves[0] @ halves[1]).float().numpy(), rounded),
    }


def wrong_answers(products: Products) -> list[str]:
    return [name for _ in range(ROUNDS) for name, (run, right) in products.items() if not np.array_equal(run(), right)]


def test_in_turn_in_one_thread(products: Products) -> None:
    assert wrong_answers(products) == []


def test_in_turn_in_eight_threads_at_once(products: Products) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(wrong_answers, [products] * 8)) == [[]] * 8

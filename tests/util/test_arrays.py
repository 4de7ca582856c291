"""What callers pass as arrays: what is refused, in which words, and what is copied."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from octavo._util.arrays import as_real_array, as_rows, check_out, first_place, require_finite, rows_in_place

F = np.float32


@pytest.mark.parametrize("dtype", [np.float16, F, np.float64, np.int8, np.uint64, np.bool_, ">f4"])
def test_as_real_array_copies_nothing(dtype) -> None:
    a = np.ones((2, 3), dtype)
    assert as_real_array(a, "x") is a


@pytest.mark.parametrize("x", ["text", [None], 1j, np.longdouble([1]), np.array(["2020"], "M8[Y]")], ids=str)
def test_as_real_array_refuses_other_kinds(x) -> None:
    if getattr(x, "dtype", None) == np.float64:
        pytest.skip("longdouble is float64 on this platform")
    with pytest.raises(TypeError, match="given must hold real numbers"):
        as_real_array(x, "given")


@pytest.mark.slow
def test_masked_arrays_are_refused_though_nothing_imports_numpy_ma() -> None:
    with pytest.raises(TypeError, match=r"x must not be a masked array.*pass x\.filled\(value\)"):
        as_real_array(np.ma.array([1.0, 2.0], mask=[0, 1]), "x")
    code = """
import sys, numpy
before = "numpy.ma" in sys.modules  # as NumPy 1.26 has it
import octavo
octavo.choose_qparams([1.0])
print(("numpy.ma" in sys.modules) == before)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "True\n"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            F([[0, 1], [np.nan, np.inf]]),
            r"w must be finite, got 2 of 4 values .*\(nan\) at w\[1, 0\]; remove them",
        ),
        (np.array(-np.inf), r"w must be finite, got 1 of 1 values .* first \(-inf\) at w; remove them"),
        (np.array([1.0, -1e39]), r"w must fit float32 .* beyond it, the first \(-1e\+39\) at w\[1\]; scale w down"),
    ],
    ids=["nan", "scalar", "float64"],
)
def test_require_finite_names_the_value_and_its_place(x: np.ndarray, message: str) -> None:
    with np.errstate(all="raise"), pytest.raises(ValueError, match=message):
        require_finite(x, "w")


@pytest.mark.parametrize("x", [np.zeros(0), np.ones(3, np.int8), np.array([3.4e38, -1e-320]), np.float16([65504])])
def test_require_finite_lets_finite_values_pass(x: np.ndarray) -> None:
    require_finite(x, "w")


def test_first_place_is_in_c_order() -> None:
    bad = np.zeros((3, 4), bool).T
    bad[2, 1] = bad[3, 0] = True
    assert first_place(bad, "x") == "x[2, 1]"


@pytest.mark.parametrize(
    ("a", "copied"),
    [
        (np.ones((2, 3), F), False), (np.ones((4, 3), F)[::2], False), (np.ones((2, 2, 3), F), False),
        (np.ones((2, 6), F)[:, ::2], True), (np.ones((3, 2), F).T, True), (np.ones((2, 3)), True),
        (np.ones((2, 3), ">f4"), True), (np.frombuffer(bytes(25), np.uint8)[1:].view(F).reshape(2, 3), True),
    ],
)  # fmt: skip
def test_as_rows_copies_only_where_rows_are_unusable(a: np.ndarray, copied: bool) -> None:
    rows = as_rows(a)
    assert (rows.dtype, rows.shape[-1], rows.ndim) == (F, 3, 2)
    assert np.shares_memory(rows, a) is not copied
    assert rows.flags.aligned
    np.testing.assert_array_equal(rows, a.reshape(-1, 3))


def test_rows_in_place_is_none_where_kernels_cannot_write() -> None:
    out = np.zeros((2, 2, 3), F)
    rows = rows_in_place(out, 4, 3)
    assert rows is not None
    assert np.shares_memory(rows, out)
    for unusable in (np.zeros((3, 4), F).T, np.zeros((4, 2, 3), F)[::2], np.zeros((4, 3), ">f4")):
        assert rows_in_place(unusable, 4, 3) is None


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([0.0], TypeError, "out must be a numpy array, got list"),
        (np.zeros(2), TypeError, "out must have dtype float32, as the result has, got float64"),
        (np.zeros(3, F), ValueError, r"out must have shape \(2,\), as the result has, got \(3,\)"),
        (np.broadcast_to(F(0), 2), ValueError, "out must be writable, got a read-only array"),
    ],
)
def test_check_out_refuses(out, error, message) -> None:
    with pytest.raises(error, match=message):
        check_out(out, (2,), np.dtype(F))

"""What users hand over as arrays: other libraries' arrays are read, or refused with the line to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
rng = np.random.default_rng(0)
W = rng.standard_normal((8, 32), dtype=F)
X = rng.standard_normal((3, 32), dtype=F)

# Every kind of function that takes an array from the user; each is given one that may stand for W.
TAKERS: dict[str, Callable[[Any], Any]] = {
    "QuantLinear": lambda a: oc.QuantLinear(a).weight,
    "QuantLinear int4": lambda a: oc.QuantLinear(a, dtype="int4", group_size=32).weight,
    "bias": lambda a: oc.QuantLinear(np.ones((32, 2), F), np.asarray(W)[0] if a is W else first_row(a)).bias,
    "x": lambda a: oc.QuantLinear(W)(a),
    "matrix": lambda a: oc.QuantMatrix(a).dequantize(),
    "product": lambda a: np.matmul(a, oc.QuantMatrix(W.T)),
    "embedding": lambda a: oc.QuantEmbedding(a)([0, 1]),
    "nn.Linear": lambda a: oc.nn.Linear(a).weight,
    "LSTM": lambda a: oc.nn.LSTM.init(32, 2, rng=np.random.default_rng(0))(a)[0],
    "observer": lambda a: seen(oc.MinMaxObserver(), a),
    "histogram": lambda a: seen(oc.HistogramObserver(), a),
    "choose_qparams": lambda a: oc.choose_qparams(a).scale,
    "quantize": lambda a: oc.quantize(a, oc.QParams(0.1, 0)),
    "fake_quantize": lambda a: oc.fake_quantize(a, oc.QParams(0.1, 0)),
    "round_nearest": lambda a: oc.round_nearest(a, group_size=32).q,
    "round_search": lambda a: oc.round_search(a, group_size=32).q,
    "gptq": lambda a: oc.round_gptq(W, a, group_size=32).q,
    "gptq, int8": lambda a: oc.round_gptq_int8(W, a).q,
}


def first_row(a: Any) -> Any:
    return a.iloc[0] if hasattr(a, "iloc") else a[0]


def seen(observer: Any, x: Any) -> Any:
    observer(x)
    return observer.calculate_qparams().scale


def assert_same_floats(actual: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(actual).astype(F), np.asarray(expected).astype(F))


@pytest.mark.parametrize("name", TAKERS)
def test_bfloat16_is_read_exactly(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    half = W.astype(ml_dtypes.bfloat16)
    actual, expected = TAKERS[name](half), TAKERS[name](half.astype(F))
    if name in ("x", "product"):
        assert actual.dtype == ml_dtypes.bfloat16  # as float16 gives float16
        expected = expected.astype(ml_dtypes.bfloat16)
    assert_same_floats(actual, expected)


def test_other_small_floats_are_read_too() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="float8 needs ml_dtypes")
    w = W.astype(ml_dtypes.float8_e4m3fn)
    assert_same_floats(oc.QuantLinear(w).weight, oc.QuantLinear(w.astype(F)).weight)
    assert oc.QuantLinear(W)(X.astype(ml_dtypes.int4)).dtype == F


def test_results_of_bfloat16_go_into_out_of_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    x, layer = X.astype(ml_dtypes.bfloat16), oc.QuantLinear(W)
    out = np.empty((3, 8), ml_dtypes.bfloat16)
    assert layer(x, out=out) is out
    assert_same_floats(out, layer(x))
    static = oc.StaticQuantLinear(layer.int_repr(), layer.scale, input=oc.QParams(0.05, 0))
    assert static(x).dtype == ml_dtypes.bfloat16
    lstm = oc.QuantLSTM.from_float(oc.nn.LSTM.init(32, 4))
    assert lstm(x)[0].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", TAKERS)
def test_arrays_of_other_libraries_are_read(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    expected = TAKERS[name](W)
    assert_same_floats(TAKERS[name](torch.from_numpy(W)), expected)
    assert_same_floats(TAKERS[name](jax.numpy.asarray(W)), expected)
    if name != "product":  # pandas and polars have their own
        assert_same_floats(TAKERS[name](pandas.DataFrame(W)), expected)
        if name != "bias":
            assert_same_floats(TAKERS[name](polars.DataFrame(W)), expected)


@pytest.mark.parametrize("name", TAKERS)
def test_what_numpy_cannot_read_of_torch_is_refused_with_the_line_to_write(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    cases = {
        r"\w+\.detach\(\)\.numpy\(\)": torch.tensor(W, requires_grad=True),
        r"\w+\.float\(\)\.numpy\(\)": torch.tensor(W).bfloat16(),
    }
    for line, tensor in cases.items():
        with pytest.raises(TypeError, match=rf"got a torch Tensor that NumPy cannot read .*pass {line}"):
            TAKERS[name](tensor)


@pytest.mark.parametrize("name", [name for name in TAKERS if name not in ("bias", "product")])
def test_frames_of_mixed_columns_are_refused_with_the_line_to_write(name: str) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    columns = {"a": [1.0, 2.0], "b": ["x", "y"]}
    for frame, line in (
        (pandas.DataFrame(columns), r'\w+\.select_dtypes\("number"\)\.to_numpy\(np\.float32\)'),
        (polars.DataFrame(columns), r"\w+\.select\(polars\.selectors\.numeric\(\)\)\.to_numpy\(\)"),
    ):
        with pytest.raises(TypeError, match=rf"must hold real numbers .* DataFrame of dtype object; .*: {line}"):
            TAKERS[name](frame)


def test_values_inside_jax_jit_are_refused_with_the_way_out() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    with pytest.raises(TypeError, match=r"x must be an array, got a jax .*jax\.pure_callback"):
        jax.jit(lambda x: oc.QuantLinear(W)(x))(X)


class Unreadable:
    """An array of some library that NumPy cannot read."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise RuntimeError("it lies on another device")


@pytest.mark.parametrize(("name", "argument"), [
    ("QuantLinear", "weight"), ("QuantLinear int4", "weight"), ("x", "x"), ("matrix", "w"), ("embedding", "weight"),
    ("nn.Linear", "weight"), ("LSTM", "x"), ("observer", "x"), ("quantize", "x"), ("round_search", "weight"),
    ("gptq", "inputs"),
])  # fmt: skip
def test_wrong_arrays_are_named_as_the_argument_they_are(name: str, argument: str) -> None:
    for wrong, error, message in (
        (Unreadable(), TypeError, "must be an array, got .*Unreadable that NumPy cannot read .*another device"),
        (W.astype(complex), TypeError, r"must hold real numbers .*, got ndarray of dtype complex128; .*\.real"),
        (np.full((8, 32), "a"), TypeError, "must hold real numbers .*, got ndarray of dtype <U1; convert"),
        (np.ma.array(W), TypeError, rf"must not be a masked array.*pass {argument}\.filled"),
        ([[1.0], [1.0, 2.0]], ValueError, "must be an array, got a ragged list"),
        (np.array([[1, None]]), TypeError, "must hold real numbers .*, got ndarray of dtype object"),
    ):
        with pytest.raises(error, match=rf"\b{argument} {message}"):
            TAKERS[name](wrong)


@pytest.mark.parametrize("name", ["QuantLinear", "x", "observer", "quantize"])
def test_memory_that_runs_out_while_an_array_is_read_is_a_memory_error(name: str) -> None:
    class Large:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        TAKERS[name](Large())


@pytest.mark.parametrize(("value", "rule"), [(np.nan, "be finite"), (1e300, r"fit float32 \(up to 3\.4")])
@pytest.mark.parametrize(("name", "argument"), [("QuantLinear", "weight"), ("matrix", "w"), ("embedding", "weight")])
def test_weights_that_are_not_finite_are_named_as_weights(name: str, argument: str, value: float, rule: str) -> None:
    w = W.astype(np.float64)
    w[1, 2] = value
    with pytest.raises(ValueError, match=rf"^{argument} must {rule}.* at {argument}\[1, 2\]"):
        TAKERS[name](w)

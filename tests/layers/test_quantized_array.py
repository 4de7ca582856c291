"""QuantizedArray: the same values as its float32 array for any NumPy code, integers where promised, no lost writes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo as oc

F = np.float32
PARAMS = oc.QParams(0.1, 100, "uint8")


def example(shape: tuple[int, ...] = (4, 6), params: oc.QParams = PARAMS, seed: int = 0) -> oc.QuantizedArray:
    q = np.random.default_rng(seed).integers(params.qmin, params.qmax + 1, shape).astype(params.qtype.storage)
    return oc.QuantizedArray(q, params)


def parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def written(write: Callable[[np.ndarray], Any]) -> np.ndarray:
    x = np.zeros((4, 6), F)
    write(x)
    return x


INTEGER: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda a: a.reshape(2, 12),
    "reshape-tuple": lambda a: a.reshape((3, -1)),
    "ravel": lambda a: a.ravel(),
    "flatten": lambda a: a.flatten("F"),
    "transpose": lambda a: a.transpose(1, 0),
    "T": lambda a: a.T,
    "swapaxes": lambda a: a.swapaxes(0, 1),
    "copy": lambda a: a.copy(),
    "squeeze": lambda a: a[None].squeeze(),
    "slice": lambda a: a[1:3, ::2],
    "row": lambda a: a[2],
    "ellipsis-newaxis": lambda a: a[..., None, 0],
    "mask": lambda a: a[:, np.array([True, False] * 3)],
    "index-array": lambda a: a[np.array([3, 0, 0])],
    "iteration": lambda a: list(a),
    "np.reshape": lambda a: np.reshape(a, (6, 4)),
    "np.ravel": lambda a: np.ravel(a),
    "np.transpose": lambda a: np.transpose(a),
    "np.swapaxes": lambda a: np.swapaxes(a, 0, 1),
    "np.moveaxis": lambda a: np.moveaxis(a, 0, 1),
    "np.expand_dims": lambda a: np.expand_dims(a, 0),
    "np.squeeze": lambda a: np.squeeze(a[None]),
    "np.split": lambda a: np.split(a, 2),
    "np.hsplit": lambda a: np.hsplit(a, 3),
    "relu": lambda a: np.maximum(a, 0),
    "relu-0.0": lambda a: np.maximum(a, 0.0),
    "relu-float32": lambda a: np.maximum(F(0), a),
    "nn.ReLU": lambda a: oc.nn.ReLU()(a),
    "concatenate": lambda a: np.concatenate([a, a[:1]]),
    "concatenate-axis": lambda a: np.concatenate((a, a), axis=1),
    "stack": lambda a: np.stack([a, a]),
    "vstack": lambda a: np.vstack([a, a]),
    "hstack": lambda a: np.hstack([a, a]),
}

FLOAT: dict[str, Callable[[Any], Any]] = {
    "add": lambda a: a + 1,
    "radd": lambda a: 1 + a,
    "array-plus": lambda a: np.ones((4, 6), F) + a,
    "subtract-self": lambda a: a - a,
    "negative": lambda a: -a,
    "abs": lambda a: abs(a),
    "power": lambda a: a**2,
    "compare": lambda a: a > 0,
    "equal": lambda a: a == a,
    "matmul": lambda a: a @ np.ones((6, 2), F),
    "rmatmul": lambda a: np.ones((2, 4), F) @ a,
    "array.dot": lambda a: np.ones((2, 4), F).dot(a),
    "np.dot": lambda a: np.dot(a, a.T),
    "exp": lambda a: np.exp(a),
    "maximum-1": lambda a: np.maximum(a, 1),
    "maximum-array": lambda a: np.maximum(a, np.zeros(6, F)),
    "maximum-where": lambda a: np.maximum(a, 0, where=np.ones((4, 6), bool), out=np.zeros((4, 6), F)),
    "reduce": lambda a: np.add.reduce(a, axis=0),
    "sum": lambda a: a.sum(),
    "mean": lambda a: a.mean(axis=1, keepdims=True),
    "max": lambda a: a.max(),
    "argmax": lambda a: a.argmax(axis=1),
    "std": lambda a: np.std(a),
    "astype": lambda a: a.astype(np.float64),
    "clip": lambda a: np.clip(a, -1, 1),
    "where": lambda a: np.where(a > 0, a, 0),
    "einsum": lambda a: np.einsum("ij,kj->ik", a, a),
    "take": lambda a: np.take(a, [0, 1]),
    "sort": lambda a: np.sort(a),
    "pad": lambda a: np.pad(a, 1),
    "norm": lambda a: np.linalg.norm(a),
    "zeros_like": lambda a: np.zeros_like(a),
    "concatenate-floats": lambda a: np.concatenate([a, np.ones((1, 6), F)]),
    "asarray": lambda a: np.asarray(a),
    "array": lambda a: np.array(a),
    "asarray-float64": lambda a: np.asarray(a, np.float64),
    "ascontiguousarray": lambda a: np.ascontiguousarray(a),
    "element": lambda a: a[1, 2],
    "tolist": lambda a: np.asarray(a.tolist()),
    "modf": lambda a: np.modf(a),
    "assigned": lambda a: written(lambda x: x.__setitem__(..., a)),
    "copyto": lambda a: written(lambda x: np.copyto(x, a)),
    "add.at": lambda a: written(lambda x: np.add.at(x, [0, 1, 0, 1], a)),
    "out": lambda a: written(lambda x: np.add(a, 1, out=x)),
    "bool": lambda a: bool(a[0, 0]),
    "float": lambda a: float(a[0, :1].sum()),
    "contains": lambda a: 0.0 in a,
    "len-shape": lambda a: (len(a), a.shape, a.ndim, a.size, np.shape(a), np.ndim(a)),
}


@pytest.mark.parametrize("params", [PARAMS, oc.QParams(0.3, -7, "int8", qmin=-127)], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", INTEGER)
def test_layout_relu_and_joins_stay_integer(name: str, params: oc.QParams) -> None:
    q = example(params=params)
    results, expected = parts(INTEGER[name](q)), parts(INTEGER[name](q.dequantize()))
    assert len(results) == len(expected)
    for result, truth in zip(results, expected, strict=True):
        assert type(result) is oc.QuantizedArray
        assert result.qparams == params
        assert result.shape == truth.shape
        np.testing.assert_array_equal(result.dequantize(), truth)


@pytest.mark.parametrize("name", FLOAT)
def test_other_code_sees_the_dequantized_values(name: str) -> None:
    q = example()
    results, expected = parts(FLOAT[name](q)), parts(FLOAT[name](q.dequantize()))
    for result, truth in zip(results, expected, strict=True):
        assert type(result) is type(truth)
        if isinstance(truth, (np.ndarray, np.generic)):
            assert result.dtype == truth.dtype
        np.testing.assert_array_equal(result, truth)


@pytest.mark.parametrize("name", sorted(INTEGER.keys() | FLOAT.keys()))
def test_per_channel_parameters_give_the_same_values(name: str) -> None:
    params = oc.QParams(np.linspace(0.01, 0.1, 6, dtype=F), np.arange(6), "int8", axis=1)
    q, function = example(params=params), (INTEGER | FLOAT)[name]
    for result, truth in zip(parts(function(q)), parts(function(q.dequantize())), strict=True):
        np.testing.assert_array_equal(np.asarray(result), truth)


def test_concatenate_of_other_parameters_is_float() -> None:
    a, b = example(), example(params=oc.QParams(0.2, 3, "uint8"))
    joined = np.concatenate([a, b])
    assert type(joined) is np.ndarray
    np.testing.assert_array_equal(joined, np.concatenate([a.dequantize(), b.dequantize()]))


def test_properties_tell_what_is_held() -> None:
    q = example()
    assert q.dtype == np.float32
    assert q.qtype is oc.quint8
    assert q.int_repr().dtype == np.uint8
    assert q.nbytes == 24
    assert (float(q.scale), int(q.zero_point)) == (F(0.1), 100)
    np.testing.assert_array_equal(q.dequantize(), oc.dequantize(q.int_repr(), PARAMS))
    assert repr(oc.QuantizedArray(np.array([101], np.uint8), PARAMS)) == (
        "QuantizedArray([0.1], quint8, scale=0.1, zero_point=100)"
    )


WRITES: dict[str, Callable[[Any], Any]] = {
    "setitem": lambda a: a.__setitem__(0, 1),
    "iadd": lambda a: a.__iadd__(1),
    "imatmul": lambda a: a.__imatmul__(np.eye(6, dtype=F)),
    "ufunc-out": lambda a: np.add(np.ones((4, 6), F), 1, out=a),
    "ufunc-at": lambda a: np.add.at(a, 0, 1),
    "function-out": lambda a: np.cumsum(np.ones((4, 6), F), axis=0, out=a),
    "copyto": lambda a: np.copyto(a, 1),
    "copyto-keyword": lambda a: np.copyto(dst=a, src=1),
    "put": lambda a: np.put(a, 0, 1),
    "place": lambda a: np.place(a, np.ones((4, 6), bool), 1),
    "putmask": lambda a: np.putmask(a, True, 1),
    "fill_diagonal": lambda a: np.fill_diagonal(a, 1),
    "nan_to_num": lambda a: np.nan_to_num(a, copy=False),
    "fill": lambda a: a.fill(0),
    "sort": lambda a: a.sort(),
    "method-put": lambda a: a.put(0, 1),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_raises_and_changes_nothing(name: str) -> None:
    q = example()
    before = q.int_repr().copy()
    with pytest.raises(TypeError, match="cannot be written to"):
        WRITES[name](q)
    np.testing.assert_array_equal(q.int_repr(), before)


def test_views_of_the_values_are_read_only_and_copies_are_not() -> None:
    q = example()
    for x in (np.asarray(q), q.view(), q.real, q.int_repr()):
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 1
    for x in (np.array(q), q.dequantize(), q.astype(F), q + 0, np.sort(q)):
        x[0] = 1


def test_array_protocol_follows_copy() -> None:
    q = example()
    with pytest.raises(ValueError, match="no float array to share"):
        q.__array__(copy=False)
    assert q.__array__(copy=True).flags.writeable
    assert not q.__array__().flags.writeable


def test_copies_and_pickles_are_equal() -> None:
    q = example()[:, ::2]
    for other in (copy.copy(q), copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert type(other) is oc.QuantizedArray
        assert other.qparams == q.qparams
        np.testing.assert_array_equal(other.int_repr(), q.int_repr())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="qparams must be a QParams, got float"):
        oc.QuantizedArray(np.zeros(3, np.int8), 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="q must be an array of uint8, got dtype int8"):
        oc.QuantizedArray(np.zeros(3, np.int8), PARAMS)
    with pytest.raises(TypeError, match="q must be an array of uint8, got list"):
        oc.QuantizedArray([1, 2], PARAMS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs a scale of shape \(3,\)"):
        oc.QuantizedArray(np.zeros((2, 3), np.int8), oc.QParams([1, 1], 0, axis=1))
    with pytest.raises(AttributeError, match="no attribute 'weights'"):
        _ = example().weights
    with pytest.raises(TypeError, match="no float memory to point to"):
        _ = example().ctypes
    with pytest.raises(ValueError, match="out of bounds"):
        np.concatenate([example(), example()], axis=2)
    with pytest.raises(TypeError, match="0-d"):
        iter(example(()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(example())

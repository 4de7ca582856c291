"""Rotated inputs: the bits of the definition on every kernel, what the layer says of itself, bad blocks."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._numerics.input_transform import InputTransform
from octavo._numerics.rotation import hadamard, rotated, rotated_products, rotated_weight, rotation_signs, unrotated
from reference import FORMS, F, assert_same_bits, hard_rows

# Inputs and their blocks; each of the kernels' vectors, and several steps from vector to vector.
SIZES = [(16, 16), (64, 64), (96, 32), (192, 64), (256, 128), (1024, 1024)]


def sylvester(block: int) -> np.ndarray:
    """The Hadamard matrix."""
    h = np.ones((1, 1))
    while len(h) < block:
        h = np.block([[h, h], [h, -h]])
    return h


def pair(
    k: int, block: int, options: dict[str, Any], *, scaled: bool = False, n: int = 19
) -> tuple[oc.QuantLinear, oc.QuantLinear, InputTransform]:
    """A layer with a rotation, the one without that the definition gives x' to, and that definition."""
    rng = np.random.default_rng(k + scaled)
    w, b = rng.standard_normal((n, k), dtype=F), rng.standard_normal(n, dtype=F)
    s = np.exp(rng.uniform(-3, 3, k)).astype(F) if scaled else None
    transform = InputTransform(s, block)
    layer = oc.QuantLinear(w, b, pre_quant_scale=s, rotation=block, **options)
    return layer, oc.QuantLinear(transform.weight(w), b, **options), transform


@pytest.mark.parametrize("block", [16, 64, 512])
def test_rotation_is_a_product_with_the_hadamard_matrix(block: int) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-50, 51, (3, 2 * block)).astype(F) for _ in range(2))
    h, d = np.kron(np.eye(2), sylvester(block)), rotation_signs(2 * block, block)
    np.testing.assert_array_equal(hadamard(x, block), x @ h)
    np.testing.assert_array_equal(rotated(x, block), (x * d) @ h)
    np.testing.assert_array_equal(rotated_weight(w, block), ((w * d) @ h / block).astype(F))
    np.testing.assert_array_equal(unrotated(rotated_weight(w, block), block), w)
    np.testing.assert_array_equal(rotated(x, block).astype(float) @ rotated_weight(w, block).astype(float).T, x @ w.T)
    products = x.T.astype(float) @ x
    np.testing.assert_array_equal(rotated_products(products, block), h @ (d[:, None] * products * d) @ h)


@pytest.mark.parametrize("block", [16, 32, 128, 1024, 4096])
def test_what_all_inputs_have_in_common_is_spread_over_the_block(block: int) -> None:
    """The Rudin-Shapiro sequence: no sum of its signs with those of a row of the matrix is above sqrt(2 B)."""
    signs = rotation_signs(block, block)
    assert [(-1) ** format(i, "b").count("11") for i in range(4)] == signs[:4].tolist()
    for i in range(block):
        assert signs[i] == (-1) ** sum(
            pair == ("1", "1") for pair in zip(format(i, "b"), format(i, "b")[1:], strict=False)
        )
    assert np.abs(rotated(np.ones((1, block), F), block)).max() <= np.sqrt(2 * block)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_call_equals_the_definition(kernel: str, form: str, scaled: bool) -> None:
    for k, block in SIZES:
        if form in ("int4 int16", "int4 groups") and k % 64:
            continue
        layer, plain, transform = pair(k, block, FORMS[form], scaled=scaled)
        for m in (1, 5, 14):
            x = hard_rows(m, k)
            assert_same_bits(layer(x), plain(transform.inputs(x)), f"{kernel} {form} {m}x{k} by {block}")


@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_equal_each_alone(kernel: str, threads: int) -> None:
    layer, _, _ = pair(512, 128, FORMS["int4"], n=80)
    x = np.random.default_rng(3).standard_normal((200, 512), dtype=F)
    before = oc.get_num_threads()
    oc.set_num_threads(threads)
    try:
        together = layer(x)
    finally:
        oc.set_num_threads(before)
    assert_same_bits(together, np.concatenate([layer(row[None]) for row in x]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scaled", [False, True])
def test_layer_shows_keeps_and_copies_its_rotation(form: str, scaled: bool, tmp_path: Path) -> None:
    layer, plain, transform = pair(128, 64, FORMS[form], scaled=scaled)
    x = hard_rows(9, 128)
    assert (layer.rotation, plain.rotation) == (64, None)
    assert ", rotation=64, bias)" in repr(layer)
    assert "rotation" not in repr(plain)
    np.testing.assert_array_equal(layer.int_repr(), plain.int_repr())
    assert_same_bits(layer.weight, transform.undone(plain.weight))
    at = np.array([3, 0, 7, 3])
    assert_same_bits(layer._weight_rows(at), layer.weight[at])
    at = np.array([100, 0, 7, 101, 100])
    assert_same_bits(layer._weight_columns(at), np.ascontiguousarray(layer.weight.T[at]))
    made = [copy.deepcopy(layer), *(pickle.loads(pickle.dumps(layer, protocol)) for protocol in (2, 4, 5))]
    for layout in ("canonical", "packed", "x86", "arm"):
        path = tmp_path / f"{layout}.safetensors"
        oc.save({"fc": layer}, path, layout=layout)
        made.append(oc.load(path)["fc"])
        made += [oc.load(path, mmap=True)["fc"]] if layout == "packed" else []
    for other in made:
        assert repr(other) == repr(layer)
        assert_same_bits(other(x), layer(x))
    assert_same_bits(pickle.loads(pickle.dumps(made[-1]))(x), layer(x))


def test_weight_is_that_of_x() -> None:
    w = np.random.default_rng(0).standard_normal((30, 256), dtype=F)
    for options in ({}, {"dtype": "int4", "group_size": 32}):
        layer = oc.QuantLinear(w, rotation=128, **options)
        plain = oc.QuantLinear(w, **options)
        error, usual = (np.linalg.norm(q.weight - w) for q in (layer, plain))
        assert error < 1.3 * usual


def test_outliers_cost_four_bits_less() -> None:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((64, 256), dtype=F), rng.standard_normal((100, 256), dtype=F)
    w[:, ::50] *= 20
    exact = x @ w.T

    def error(**options: Any) -> float:
        return float(np.linalg.norm(oc.QuantLinear(w, dtype="int4", group_size=64, **options)(x) - exact))

    assert error(rotation=128) < 0.7 * error()


@pytest.mark.parametrize("options", [{"activation": "symmetric"}, {"activation": "asymmetric"}], ids=["plain", "z"])
def test_inputs_with_a_mean_lose_nothing_to_speak_of(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((256, 512), dtype=F), np.maximum(rng.standard_normal((100, 512), dtype=F), 0)
    exact = x @ w.T
    errors = [np.linalg.norm(oc.QuantLinear(w, rotation=r, **options)(x) - exact) for r in (None, 512)]
    assert errors[1] < 1.4 * errors[0]


def test_weights_that_are_not_finite_are_named_where_they_are() -> None:
    w = np.ones((3, 64), F)
    w[2, 5] = np.inf
    for options in ({}, {"dtype": "int4"}):
        with pytest.raises(ValueError, match=r"inf.*\[2, 5\]"):
            oc.QuantLinear(w, rotation=32, **options)


@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (0, 0)])
def test_empty_layers_are_as_others(shape: tuple[int, int]) -> None:
    layer, plain = (oc.QuantLinear(np.zeros(shape, F), rotation=r) for r in (32, None))
    for m in (0, 2):
        x = np.ones((m, shape[1]), F)
        assert_same_bits(layer(x), plain(x))
    assert layer.weight.shape == shape
    assert layer._weight_columns(np.zeros(0, np.int64)).shape == (0, shape[0])


def test_inputs_and_results_of_other_kinds() -> None:
    layer, plain, transform = pair(128, 64, FORMS["int8"])
    x = np.random.default_rng(1).standard_normal((10, 256))
    for given in (x[:, ::2], x[::-1, :128].astype(np.float16), np.asfortranarray(x[:, :128].astype(F))):
        y = layer(given)
        np.testing.assert_array_equal(y, plain(transform.inputs(given)).astype(y.dtype))
    out = np.empty((10, 40), F)[:, ::2][:, :19]
    assert layer(x[:, :128].astype(F), out=out) is out
    assert_same_bits(np.ascontiguousarray(out), layer(x[:, :128].astype(F)))


def test_grouped_codes_of_files(kernel: str) -> None:
    codes = np.random.default_rng(0).integers(0, 64, (9, 64)).astype(np.uint8)
    scale = np.full((9, 2), 0.01, F)
    weight = oc.GroupedCodes(codes, scale, 6, 32, minimum=-16 * scale)
    layer, plain = oc.QuantLinear.from_grouped(weight, rotation=32), oc.QuantLinear.from_grouped(weight)
    x = hard_rows(7, 64)
    assert_same_bits(layer(x), plain(InputTransform(None, 32).inputs(x)))


@pytest.mark.parametrize("axis", [0, 1])
def test_matrix_multiplies_and_gives_its_rows(axis: Any) -> None:
    w = np.random.default_rng(0).standard_normal((64, 96), dtype=F)
    matrix = oc.QuantMatrix(w, axis=axis, rotation=32)
    inner = oc.QuantLinear(w.T if axis else w, rotation=32)
    x = hard_rows(4, inner.in_features)
    assert_same_bits(x @ (matrix if axis else matrix.T), inner(x))
    assert_same_bits(matrix[[1, 5, 33]], matrix.dequantize()[[1, 5, 33]])
    assert_same_bits(matrix[:, [2, 40]], matrix.dequantize()[:, [2, 40]])
    for nothing in (matrix[[]], matrix[:, 5:5], matrix[0:0]):
        assert nothing.size == 0
    assert matrix.item(3, 4) == matrix.dequantize()[3, 4]
    assert repr(pickle.loads(pickle.dumps(matrix))) == repr(matrix)
    other = matrix.T if axis else matrix
    y = np.random.default_rng(1).standard_normal((5, other.shape[0]), dtype=F)
    np.testing.assert_allclose(y @ other, y @ other.dequantize(), rtol=1e-4, atol=1e-4)


def test_joined_layers_have_one_rotation() -> None:
    w = np.random.default_rng(0).standard_normal((6, 64), dtype=F)
    a, b = (oc.QuantLinear(part, rotation=32) for part in (w[:2], w[2:]))
    both, x = oc.concatenate([a, b]), hard_rows(3, 64)
    assert_same_bits(both(x), np.concatenate([a(x), b(x)], axis=1))
    assert_same_bits(oc.split(both, [2])[0](x), a(x))
    for other in (oc.QuantLinear(w), oc.QuantLinear(w, rotation=16)):
        with pytest.raises(ValueError, match="parts must be of one form"):
            oc.concatenate([a, other])


@pytest.mark.parametrize(
    ("rotation", "error", "message"),
    [
        (24, ValueError, "rotation must be a power of two from 16 to 4096, got 24"),
        (8, ValueError, "from 16 to 4096, got 8"),
        (0, ValueError, "got 0"),
        (-16, ValueError, "got -16"),
        (8192, ValueError, "got 8192"),
        (64, ValueError, "rotation must divide the number of inputs, 96, got 64"),
        (32.0, TypeError, r"rotation must be an integer, the inputs of a block, or None, got 32\.0"),
        ("32", TypeError, "got '32'"),
    ],
)
def test_bad_blocks_are_refused(rotation: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.QuantLinear(np.ones((2, 96), F), rotation=rotation)


def test_what_holds_no_rotation_refuses_it(tmp_path: Path) -> None:
    layer = oc.QuantLinear(np.ones((2, 32), F), rotation=32)
    with pytest.raises(ValueError, match="layer must have no rotation"):
        oc.PermutedQuantLinear(layer, np.arange(32))
    with pytest.raises(ValueError, match="it has a rotation, which such a checkpoint has no place for"):
        oc.checkpoints.save({"fc": layer}, tmp_path / "out", config={})
    with pytest.raises(TypeError, match="rotation"):
        oc.StaticQuantLinear(np.ones((2, 32), np.int8), 1.0, input=oc.QParams(0.05, 3, "uint8"), rotation=32)  # type: ignore[call-arg]


@pytest.mark.parametrize("activation", ["symmetric", "asymmetric", "int16"])
def test_rows_that_overflow_are_nan(kernel: str, activation: Any) -> None:
    layer = oc.QuantLinear(np.ones((2, 32), F), rotation=32, activation=activation)
    x = np.ones((4, 32), F)
    x[0], x[2, 3], x[3, 31] = 3e38 * rotation_signs(32, 32), np.nan, np.inf  # of the first, each alone is finite
    y = layer(x)
    assert np.isnan(y[[0, 2, 3]]).all()
    assert np.isfinite(y[1]).all()

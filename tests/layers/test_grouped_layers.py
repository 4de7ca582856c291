"""Layers and matrices of grouped codes: the NumPy definition to the bit, on every kernel of this machine."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import octavo as oc
from grouped_weights import FORMS, make_codes
from octavo._layers.weights import as_codes
from octavo._numerics.grouped_definition import check_combination, grouped_linear
from reference import assert_same_bits

F = np.float32
KERNELS = [kernel.name for kernel in oc.kernels()]
ACTIVATIONS = [("symmetric", None), ("asymmetric", None), ("int16", None)] + [
    ("symmetric", group) for group in (32, 64, 128, 256)
]


def hard_rows(m: int, k: int, seed: int = 0) -> np.ndarray:
    """Rows with a large value, of zeros, of one sign, tiny, NaN and infinite, where there are so many."""
    x = np.random.default_rng(seed).standard_normal((m, k)).astype(F)
    for row, values in enumerate([[100, -100], [0] * k, np.abs(x[2 % m]), [2.0**-101] * k, [np.nan], [-np.inf]]):
        if row < m:
            x[row, : len(values)] = values
    return x


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Any:
    info = next(k for k in oc.kernels() if k.name == request.param)
    if not info.supported:
        pytest.skip(f"kernel {info.name} needs {', '.join(info.missing)}, which this CPU lacks")
    oc.use_kernel(request.param)
    yield request.param
    oc.use_kernel(None)


@pytest.mark.underflows
@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "group_size"),
    [(f, g) for f in FORMS for g in (16, 32, 64, 128, 256, None) if "two" not in f or g not in (256, None)],
)
def test_call_gives_the_bits_of_the_definition(kernel: str, form: str, group_size: int | None) -> None:
    tried = 0
    kinds = [
        (4, np.int8),
        (4, np.uint8),
        (8, np.int8),
        (8, np.uint8),
        (5, np.int8),
        (5, np.uint8),
        (6, np.int8),
        (6, np.uint8),
    ]
    for seed, (bits, dtype) in enumerate(kinds):
        k = 512 if form.startswith("two levels") or group_size == 256 else 384 if group_size else 77
        w = make_codes(
            37, k, form, bits=bits, dtype=dtype, group_size=group_size, seed=seed, scale_dtype=[np.float16, F][seed % 2]
        )
        bias = np.random.default_rng(seed).standard_normal(37).astype(F) if seed % 2 else None
        x = hard_rows([1, 2, 7, 14, 1, 3, 14, 2][seed], k, seed)
        for activation, group in ACTIVATIONS:
            try:
                check_combination(w, activation, group)
            except ValueError:
                continue
            layer = oc.QuantLinear.from_grouped(w, bias, activation=activation, activation_group=group, relu=seed == 2)
            expected = grouped_linear(x, w, bias, activation=activation, activation_group=group, relu=seed == 2)
            assert_same_bits(layer(x), expected, f"{layer} on {kernel}")
            tried += 1
    assert tried >= 8


def test_call_gives_row_i_of_a_batch_as_row_i_alone() -> None:
    w = make_codes(50, 256, "minimum")
    x = hard_rows(23, 256)
    for options in ({}, {"activation": "int16"}, {"activation_group": 64}):
        layer = oc.QuantLinear.from_grouped(w, **options)
        assert_same_bits(layer(x), np.concatenate([layer(row[None]) for row in x]))
        for threads in (1, 2, 5):
            before = oc.get_num_threads()
            oc.set_num_threads(threads)
            assert_same_bits(layer(x), np.concatenate([layer(row[None]) for row in x]))
            oc.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("options", [{"activation": "int16"}, {"activation_group": 64}])
def test_float_weights_take_finer_activations(dtype: str, options: dict[str, Any]) -> None:
    if dtype == "int8" and "activation_group" in options:
        with pytest.raises(ValueError, match="64 for one group a row"):
            oc.QuantLinear(np.eye(64), **options)
        return
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((9, 128)).astype(F), rng.standard_normal((4, 128)).astype(F)
    groups = {"group_size": 32, "symmetric": False} if dtype == "int4" else {}
    layer = oc.QuantLinear(w, dtype=dtype, **groups, **options)
    plain = oc.QuantLinear(w, dtype=dtype, **groups)
    np.testing.assert_array_equal(layer.weight, plain.weight)
    exact = x.astype(np.float64) @ layer.weight.T.astype(np.float64)
    errors = [np.abs(found(x) - exact).max() for found in (layer, plain)]
    assert errors[0] < errors[1] / (100 if "activation" in options else 1)
    assert_same_bits(layer(x), grouped_linear(x, layer.grouped(), **options))


def test_quantize_dynamic_takes_int16_activations() -> None:
    rng = np.random.default_rng(0)
    model = {"fc": oc.nn.Linear(rng.standard_normal((8, 64), dtype=F)), "w": rng.standard_normal((64, 64), dtype=F)}
    found = oc.quantize_dynamic(model, {oc.nn.Linear}, arrays="w", activation="int16")
    x = rng.standard_normal((3, 64), dtype=F)
    for y, layer in ((found["fc"](x), found["fc"]), (x @ found["w"], found["w"]._layer)):
        assert layer.activation == "int16"
        assert_same_bits(y, grouped_linear(x, layer.grouped(), activation="int16"))


def test_properties_show_the_weights() -> None:
    w = make_codes(6, 256, "two levels, minimum")
    layer = oc.QuantLinear.from_grouped(w, activation_group=256)
    np.testing.assert_array_equal(layer.weight, w.dequantize())
    np.testing.assert_array_equal(layer.int_repr(), w.codes)
    np.testing.assert_array_equal(layer.scale, w.group_scales())
    assert layer.dtype == oc.quint4
    assert layer.group_size == 32
    assert not layer.symmetric
    assert layer.activation_group == 256
    assert layer.scale_dtype == "float16"
    assert (layer.zero_point == 0).all()
    assert repr(layer).startswith(
        "QuantLinear(256 -> 6, uint4, group_size=32, minimum, two levels, scale_dtype=float16"
    )
    with pytest.raises(ValueError, match="holds no grouped codes"):
        oc.QuantLinear(np.eye(3)).grouped()


@pytest.mark.parametrize("form", FORMS)
def test_pickle_and_deepcopy_keep_every_bit(form: str) -> None:
    for bits, dtype in [(4, np.int8), (5, np.uint8), (6, np.int8), (8, np.uint8)]:
        w = make_codes(5, 256, form, bits=bits, dtype=dtype)
        q = oc.QuantMatrix.from_grouped(w, axis=0, activation="int16")
        for other in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q)):
            assert repr(other) == repr(q)
            np.testing.assert_array_equal(other.dequantize(), w.dequantize())


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_matrix_gives_rows_and_columns_dequantized(bits: int) -> None:
    w = make_codes(8, 256, "zero point", bits=bits)
    q = oc.QuantMatrix.from_grouped(w, axis=0)
    values = w.dequantize()
    np.testing.assert_array_equal(q[[3, 0, -1]], values[[3, 0, -1]])
    np.testing.assert_array_equal(q[:, [5, 255]], values[:, [5, 255]])
    x = hard_rows(3, 256)
    assert_same_bits(x @ q.T, grouped_linear(x, w))
    with pytest.raises(ValueError, match=r"axis must be 1 .* or 0 .*, got -1"):
        oc.QuantMatrix.from_grouped(w, axis=-1)


@pytest.mark.underflows
@pytest.mark.parametrize(("bits", "dtype"), [(5, np.int8), (5, np.uint8), (6, np.int8), (6, np.uint8)])
def test_codes_of_five_and_six_bits_take_as_many(bits: int, dtype: Any) -> None:
    for k in (2, 5, 63, 64, 65, 300):  # of part of a byte, of a part of a chunk
        w = make_codes(33, k, bits=bits, dtype=dtype, group_size=None)
        layer = oc.QuantLinear.from_grouped(w)
        np.testing.assert_array_equal(layer.grouped().codes, w.codes)
        assert layer.dtype.name == ("qint" if dtype == np.int8 else "quint") + str(bits)
        with pytest.raises(ValueError, match=f"int{bits} is the type of grouped codes that exist already"):
            oc.QuantLinear(np.eye(2), dtype=layer.dtype)
        assert_same_bits(layer(hard_rows(7, k)), grouped_linear(hard_rows(7, k), w))
    many = [oc.QuantLinear.from_grouped(make_codes(64, 4096, bits=b, dtype=dtype, group_size=256)) for b in (bits, 8)]
    assert many[0].nbytes < 1.02 * bits / 8 * many[1].nbytes


@pytest.mark.parametrize("form", ["int8", "int4", *FORMS])
def test_concatenate_and_split_are_opposites_and_change_no_bit(form: str) -> None:
    x = hard_rows(3, 256)
    if form in ("int8", "int4"):
        whole = oc.QuantLinear(
            np.random.default_rng(0).standard_normal((11, 256)), np.arange(11), dtype=form, relu=True
        )
    else:
        whole = oc.QuantLinear.from_grouped(make_codes(11, 256, form), np.arange(11), activation="int16")
    parts = oc.split(whole, [2, 7])
    assert [part.out_features for part in parts] == [2, 5, 4]
    assert_same_bits(np.concatenate([part(x) for part in parts], axis=1), whole(x))
    joined = oc.concatenate(parts)
    assert repr(joined) == repr(whole)
    assert_same_bits(joined(x), whole(x))


def test_split_unpacks_the_whole_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, unpacked = oc.QuantLinear(np.ones((12, 4))), []
    int_repr = oc.QuantLinear.int_repr
    monkeypatch.setattr(oc.QuantLinear, "int_repr", lambda self: unpacked.append(self) or int_repr(self))
    assert len(oc.split(layer, 6)) == 6
    assert unpacked == [layer]


def test_concatenate_of_matrices_joins_their_outputs() -> None:
    a, b = (np.random.default_rng(seed).standard_normal((64, 3)).astype(F) for seed in (0, 1))
    joined = oc.concatenate([oc.QuantMatrix(a), oc.QuantMatrix(b)])
    assert joined.shape == (64, 6)
    assert oc.concatenate([oc.QuantMatrix(a.T, axis=0)]).shape == (3, 64)
    x = hard_rows(2, 64)
    assert_same_bits(x @ joined, np.concatenate([x @ oc.QuantMatrix(a), x @ oc.QuantMatrix(b)], axis=1))


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ([], ValueError, "at least one"),
        ([np.eye(3)], TypeError, "must be QuantLinear layers or QuantMatrix"),
        ([oc.QuantLinear(np.eye(3)), oc.QuantMatrix(np.eye(3))], TypeError, "all of one class"),
        ([oc.QuantLinear(np.eye(3)), oc.QuantLinear(np.eye(4))], ValueError, "3 inputs, int8.* and 4 inputs"),
        ([oc.QuantLinear(np.eye(3)), oc.QuantLinear(np.eye(3), np.ones(3))], ValueError, "no bias.* and .*, bias"),
        ([oc.QuantMatrix(np.eye(3)), oc.QuantMatrix(np.eye(3), axis=0)], ValueError, "the same axis"),
    ],
)
def test_concatenate_refuses_what_does_not_fit(parts: list[Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        oc.concatenate(parts)


@pytest.mark.parametrize("outputs", [0, 4, [5, 2], [-1], [12]])
def test_split_refuses_places_that_do_not_fit(outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be split|must ascend"):
        oc.split(oc.QuantLinear(np.ones((11, 4))), outputs)


def test_as_codes_of_int4_groups_is_the_same_weights() -> None:
    grouped = oc.round_nearest(np.random.default_rng(0).standard_normal((3, 96)), group_size=32, symmetric=False)
    np.testing.assert_array_equal(as_codes(grouped).dequantize(), grouped.dequantize())
    with pytest.raises(ValueError, match="group_size must be one of"):
        oc.QuantLinear.from_grouped(oc.round_nearest(np.ones((2, 192)), group_size=96), activation="int16")


def test_too_many_inputs_for_exact_sums_are_refused() -> None:
    w = oc.GroupedCodes(np.zeros((1, 70000), np.uint8), np.ones((1, 1), F))
    with pytest.raises(ValueError, match=r"70000 input features in a group.*exact up to 65793"):
        oc.QuantLinear.from_grouped(w)


def test_recurrent_layers_take_plain_activations_alone() -> None:
    with pytest.raises(ValueError, match="activation of a recurrent layer must be one of"):
        oc.QuantLSTM.from_float(oc.nn.LSTM.init(3, 5), activation="int16")


@pytest.mark.underflows
@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "minimum"])
@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_tiles_of_every_height_give_the_bits_of_the_definition(kernel: str, form: str, bits: int) -> None:
    for k, (activation, group) in zip((96, 32, 160, 192, 96, 160, 640), ACTIVATIONS, strict=True):
        group = 32 if (activation, group) == ("asymmetric", None) else group  # asymmetric rows have a path of their own
        activation = "symmetric" if group else activation
        dtype = np.int8 if form == "plain" else np.uint8
        w = make_codes(33, k, form, bits=bits, dtype=dtype, seed=k, scale_dtype=[np.float16, F][k // 32 % 2])
        x = hard_rows(65, k)
        layer = oc.QuantLinear.from_grouped(w, activation=activation, activation_group=group)
        expected = grouped_linear(x, w, None, activation=activation, activation_group=group)
        for m in (0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65):
            assert_same_bits(layer(x[:m]), expected[:m], f"{layer} on {kernel}, {m} rows, {k} inputs")

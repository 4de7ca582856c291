"""QType, QParams and choose_qparams against their equations, restated one float32 operation at a time."""

import copy
import dataclasses
import doctest
import importlib
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc
from octavo.qparams import qparams_from_range

F = np.float32
MAX = np.finfo(F).max
QTYPES = {"int8": oc.qint8, "uint8": oc.quint8, "int4": oc.qint4, "uint4": oc.quint4}
FREE_RANGES = [("int8", -127, 127), ("int8", -64, 63), ("int4", -7, 7), ("uint8", 0, 100), ("uint8", 3, 6)]
RANGES = [(name, q.qmin, q.qmax) for name, q in QTYPES.items()] + FREE_RANGES
SCHEMES = [(*r, sym) for r in RANGES for sym in (True, False)]


def scheme_id(value):
    return {True: "symmetric", False: "affine"}[value] if isinstance(value, bool) else str(value)


every_scheme = pytest.mark.parametrize(("dtype", "qmin", "qmax", "symmetric"), SCHEMES, ids=scheme_id)


def expected_qparams(values, dtype, qmin, qmax, symmetric):
    """The equations, for the elements that share one scale."""
    lo = hi = F(0)
    for value in np.ravel(values):
        lo, hi = min(lo, F(value)), max(hi, F(value))
    with np.errstate(all="ignore"):
        if symmetric:
            span, steps = max(abs(lo), abs(hi)), F(F(qmax - qmin) / F(2))
        else:
            span, steps = F(hi - lo), F(qmax - qmin)
        scale = F(1) if span < F(2.0**-100) else F(span / steps)
        if symmetric:
            return scale, 0 if QTYPES[dtype].signed else (qmin + qmax + 1) // 2
        return scale, min(max(int(qmin - np.rint(F(lo / scale))), qmin), qmax)


def assert_scheme(qparams, shares, dtype, qmin, qmax, symmetric):
    """`shares` are the elements behind each scale, in the C order of the scales."""
    expected = [expected_qparams(values, dtype, qmin, qmax, symmetric) for values in shares]
    scale, zero_point = qparams
    assert scale.dtype == np.float32
    assert zero_point.dtype == np.int32
    assert scale.ravel().tolist() == [s for s, _ in expected]
    assert zero_point.ravel().tolist() == [z for _, z in expected]


def sample(shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 2.0, shape).astype(F)


# QType


@pytest.mark.parametrize(
    ("qtype", "name", "limits", "storage", "bits", "signed"),
    [
        (oc.qint8, "qint8", (-128, 127), np.int8, 8, True),
        (oc.quint8, "quint8", (0, 255), np.uint8, 8, False),
        (oc.qint4, "qint4", (-8, 7), np.int8, 4, True),
        (oc.quint4, "quint4", (0, 15), np.uint8, 4, False),
    ],
    ids=QTYPES,
)
def test_qtype_fields(qtype, name, limits, storage, bits, signed):
    assert (qtype.name, (qtype.qmin, qtype.qmax), qtype.bits, qtype.signed) == (name, limits, bits, signed)
    assert isinstance(qtype.storage, np.dtype)
    assert qtype.storage == storage
    assert repr(qtype) == f"octavo.{name}"


def test_qtype_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        oc.qint8.qmin = -127


@pytest.mark.parametrize(
    ("qtype", "spelling"),
    [(q, s) for name, q in QTYPES.items() for s in (name, "q" + name, q, pickle.loads(pickle.dumps(q)))]
    + [(oc.qint8, s) for s in (np.int8, np.dtype("int8"), np.dtype(np.int8))]
    + [(oc.quint8, s) for s in (np.uint8, np.dtype("uint8"), np.dtype(np.uint8))],
    ids=str,
)
def test_as_qtype_spellings(qtype, spelling):
    assert oc.as_qtype(spelling) == qtype
    assert oc.choose_qparams([1.0], spelling).qtype == qtype
    assert oc.QParams(1, 0, spelling).qtype == qtype


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *((w, ValueError) for w in ("int16", "qqint8", "", np.float32, np.integer, np.dtype("int32"))),
        (oc.QType("qint3", -4, 3, np.dtype(np.int8), 3), ValueError),
        *((w, TypeError) for w in (int, 8, None, ["int8"])),
    ],
    ids=str,
)
def test_as_qtype_refuses(wrong, error):
    with pytest.raises(error, match=r'dtype must be "int8", "uint8", "int4" or "uint4".*got '):
        oc.as_qtype(wrong)


# QParams


def test_qparams_defaults():
    qparams = oc.QParams(0.5, 3)
    assert (qparams.qtype, qparams.qmin, qparams.qmax) == (oc.qint8, -128, 127)
    assert (qparams.axis, qparams.group_size) == (None, None)
    assert (qparams.scale.shape, qparams.zero_point.shape) == ((), ())


def test_qparams_unpacks():
    qparams = oc.QParams([0.5, 2], [3, 4], axis=0)
    scale, zero_point = qparams
    assert scale is qparams.scale
    assert zero_point is qparams.zero_point


def test_qparams_copies_and_freezes_arrays():
    scale, zero_point = np.ones(2, F), np.zeros(2, np.int32)
    qparams = oc.QParams(scale, zero_point, axis=0)
    scale[0], zero_point[0] = 9, 9
    assert qparams.scale.tolist() == [1, 1]
    assert qparams.zero_point.tolist() == [0, 0]
    for array in qparams:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


@pytest.mark.parametrize("name", ["scale", "zero_point", "qtype", "qmin", "qmax", "axis", "group_size"])
def test_qparams_frozen(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(oc.QParams(1, 0), name, None)


def test_qparams_zero_point_broadcasts():
    assert oc.QParams([[1, 2]], 7, group_size=4).zero_point.tolist() == [[7, 7]]


def test_qparams_replace_keeps_the_rest():
    qparams = oc.QParams([1, 2], 0, "int8", axis=-1)
    assert dataclasses.replace(qparams, qmin=-127) == oc.QParams([1, 2], 0, "int8", axis=-1, qmin=-127)


@pytest.mark.parametrize(
    ("given_scale", "held"),
    [
        (1e-40, 2.0**-126),
        (1e-300, 2.0**-126),
        (F(2.0**-149), 2.0**-126),
        (2.0**-126, 2.0**-126),
        (F(2.0**-125), 2.0**-125),
        (MAX, MAX),
        (3, 3.0),
        (np.float16(0.5), 0.5),
        (np.array(0.25, ">f8"), 0.25),
    ],
    ids=str,
)
def test_qparams_scale_held(given_scale, held):
    scale = oc.QParams(given_scale, 0).scale
    assert scale == F(held)
    assert scale.dtype == np.float32
    assert scale.dtype.isnative


@pytest.mark.parametrize("wrong", [0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e39, F(-1e-45)], ids=str)
def test_qparams_scale_refused(wrong):
    with pytest.raises(ValueError, match=r"scale must be finite and > 0 in float32, got .* at scale$"):
        oc.QParams(wrong, 0)
    with pytest.raises(ValueError, match=r"got .* at scale\[1, 2\]"):
        oc.QParams([[1, 1, 1], [1, 1, wrong]], 0, group_size=4)


@pytest.mark.parametrize("wrong", [1j, "1", None, [None], np.longdouble(1)], ids=repr)
def test_qparams_scale_kind(wrong):
    with pytest.raises(TypeError, match="scale must hold real numbers"):
        oc.QParams(wrong, 0)


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [("int8", -129), ("int8", 128), ("uint8", -1), ("uint4", 16), ("int4", 8), ("int8", 2**40)],
)
def test_qparams_zero_point_outside(dtype, wrong):
    message = rf"zero_point must lie in \[qmin, qmax\] = .*got {wrong} at zero_point\[1\]"
    with pytest.raises(ValueError, match=message):
        oc.QParams([1, 1], [0, wrong], dtype, axis=0)


def test_qparams_zero_point_outside_a_free_range():
    oc.QParams(1, -3, qmin=-3, qmax=-1)
    with pytest.raises(ValueError, match=r"\[-3, -1\], got 0 at zero_point$"):
        oc.QParams(1, 0, qmin=-3, qmax=-1)


@pytest.mark.parametrize("wrong", [0.0, [0.5], True, "0", None, 2**70], ids=repr)
def test_qparams_zero_point_kind(wrong):
    with pytest.raises(TypeError, match="zero_point must hold integers, got dtype"):
        oc.QParams(1, wrong)


@pytest.mark.parametrize(
    ("dtype", "qmin", "qmax"),
    [
        ("int8", -129, 127),
        ("int8", 0, 128),
        ("uint8", -1, 5),
        ("int4", -9, 7),
        ("uint4", 0, 16),
        ("int8", 5, 5),
    ],
)
def test_qparams_integers_outside_the_type(dtype, qmin, qmax):
    message = f"<= qmin < qmax <= .*got qmin={qmin}, qmax={qmax}"
    with pytest.raises(ValueError, match=message):
        oc.QParams(1, 0, dtype, qmin=qmin, qmax=qmax)
    with pytest.raises(ValueError, match=message):
        oc.choose_qparams([1], dtype, qmin=qmin, qmax=qmax)


@pytest.mark.parametrize(
    ("scale", "zero_point", "options", "message"),
    [
        ([1, 2], 0, {}, r"scale must be a scalar.*got shape \(2,\)"),
        (1, 0, {"axis": 0}, r"scale must be 1-D.*got shape \(\)"),
        ([[1]], 0, {"axis": 0}, r"scale must be 1-D.*got shape \(1, 1\)"),
        ([1, 2], [0, 0, 0], {"axis": 0}, r"of the shape of scale, \(2,\), got \(3,\)"),
        (1, [0], {}, r"of the shape of scale, \(\), got \(1,\)"),
        (1, 0, {"group_size": 4}, r"one of the 0 axes of scale, got axis -1"),
        ([1], 0, {"group_size": 4, "axis": 1}, r"one of the 1 axes of scale, got axis 1"),
        ([1], 0, {"group_size": 0}, "group_size must be at least 1, got 0"),
        ([1], 0, {"group_size": -1}, "group_size must be at least 1, got -1"),
    ],
)
def test_qparams_shapes_refused(scale, zero_point, options, message):
    with pytest.raises(ValueError, match=message):
        oc.QParams(scale, zero_point, **options)


@pytest.mark.parametrize("options", [{"axis": 0.0}, {"group_size": 2.5}, {"qmin": -1.5}, {"qmax": "7"}])
def test_qparams_options_kind(options):
    with pytest.raises(TypeError, match="integer"):
        oc.QParams([1], 0, **{"axis": 0, **options})


def different_qparams():
    """No two alike."""
    return [
        oc.QParams(1, 0),
        oc.QParams(2, 0),
        oc.QParams(1, 1),
        oc.QParams(1, 0, "int4"),
        oc.QParams(1, 0, qmin=-127),
        oc.QParams(1, 0, qmax=126),
        oc.QParams([1], 0, axis=0),
        oc.QParams([1], 0, axis=1),
        oc.QParams([1], 0, axis=-1),
        oc.QParams([1], 0, group_size=4),
        oc.QParams([1], 0, group_size=8),
        oc.QParams([[1, 2]], 0, group_size=4),
        oc.QParams([[1], [2]], 0, group_size=4),
        oc.QParams([[1, 2]], 0, group_size=4, axis=0),
        oc.QParams([[1, 2]], [[0, 1]], group_size=4, axis=0),
    ]


def test_qparams_equality_and_hash():
    left, right = different_qparams(), different_qparams()
    for (i, a), (j, b) in itertools.product(enumerate(left), enumerate(right)):
        assert (a == b) is (i == j), (a, b)
        assert (a != b) is (i != j), (a, b)
    assert len({*left, *right}) == len(left)
    assert oc.QParams(1, 0) != (1, 0)
    assert oc.QParams([1], 0, group_size=4, axis=-1) == oc.QParams([1], 0, group_size=4)


@pytest.mark.parametrize("qparams", different_qparams(), ids=repr)
def test_qparams_copies_and_pickles(qparams):
    copies = [pickle.loads(pickle.dumps(qparams, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for other in (*copies, copy.copy(qparams), copy.deepcopy(qparams)):
        assert other == qparams
        assert not other.scale.flags.writeable
        assert not other.zero_point.flags.writeable


def test_qparams_repr():
    assert repr(oc.QParams(0.1, 3)) == "QParams(scale=0.1, zero_point=3, qtype=octavo.qint8)"
    grouped = oc.QParams([[0.1], [2]], 0, "uint4", qmax=7, group_size=32)
    text = "scale=[[0.1], [2.0]], zero_point=[[0], [0]], qtype=octavo.quint4, qmax=7, axis=1, group_size=32"
    assert repr(grouped) == f"QParams({text})"
    long = repr(oc.QParams(np.ones(1000), 0, axis=0))
    assert long.startswith("QParams(scale=[1.0, 1.0, ..., 1.0, 1.0], zero_point=[0, 0, ..., 0, 0]")


# choose_qparams: the equations


@every_scheme
@pytest.mark.parametrize("offset", [0.0, 7.0, -7.0], ids=["around_zero", "positive", "negative"])
def test_choose_qparams_per_tensor(dtype, qmin, qmax, symmetric, offset):
    x = sample((5, 7)) + F(offset)
    qparams = oc.choose_qparams(x, dtype, symmetric=symmetric, qmin=qmin, qmax=qmax)
    assert (qparams.qtype, qparams.qmin, qparams.qmax) == (QTYPES[dtype], qmin, qmax)
    assert (qparams.scale.shape, qparams.axis, qparams.group_size) == ((), None, None)
    assert_scheme(qparams, [x], dtype, qmin, qmax, symmetric)


@every_scheme
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_choose_qparams_per_channel(dtype, qmin, qmax, symmetric, axis):
    x = sample((4, 3, 5))
    qparams = oc.choose_qparams(x, dtype, symmetric=symmetric, axis=axis, qmin=qmin, qmax=qmax)
    assert (qparams.scale.shape, qparams.axis) == ((x.shape[axis],), axis % 3)
    assert_scheme(qparams, np.moveaxis(x, axis, 0), dtype, qmin, qmax, symmetric)


@every_scheme
@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 6, 7, 100])
@pytest.mark.parametrize("axis", [None, 0, 1, -2])
def test_choose_qparams_per_group(dtype, qmin, qmax, symmetric, group_size, axis):
    x = sample((4, 6, 3))
    qparams = oc.choose_qparams(x, dtype, symmetric=symmetric, axis=axis, group_size=group_size, qmin=qmin, qmax=qmax)
    along, scale_shape = 2 if axis is None else axis % 3, list(x.shape)
    scale_shape[along] = math.ceil(x.shape[along] / group_size)
    assert (qparams.axis, qparams.group_size) == (along, group_size)
    assert qparams.scale.shape == tuple(scale_shape)
    shares = [
        x[(*i[:along], slice(i[along] * group_size, (i[along] + 1) * group_size), *i[along + 1 :])]
        for i in np.ndindex(*scale_shape)
    ]
    assert_scheme(qparams, shares, dtype, qmin, qmax, symmetric)


bounded = st.floats(-(2.0**120), 2.0**120, width=32)
finite = hnp.arrays(F, hnp.array_shapes(min_dims=0, max_dims=2, max_side=6), elements=bounded)


@settings(max_examples=150, deadline=None)
@given(x=finite, scheme=st.sampled_from(SCHEMES))
def test_choose_qparams_any_values(x, scheme):
    dtype, qmin, qmax, symmetric = scheme
    qparams = oc.choose_qparams(x, dtype, symmetric=symmetric, qmin=qmin, qmax=qmax)
    assert_scheme(qparams, [x], dtype, qmin, qmax, symmetric)


@pytest.mark.parametrize(
    ("values", "options", "scale", "zero_point"),
    [
        ([-1, 2.55], {"dtype": "uint8", "symmetric": False}, F(F(2.55) - F(-1)) / F(255), 72),
        ([-1, 2.55], {"dtype": "int8", "symmetric": False}, F(F(2.55) - F(-1)) / F(255), -56),
        ([5, 10], {"dtype": "uint8", "symmetric": False}, F(10) / F(255), 0),
        ([-5, -10], {"dtype": "uint8", "symmetric": False}, F(10) / F(255), 255),
        ([-1, 2.55], {"dtype": "uint8"}, F(2.55) / F(127.5), 128),
        ([-1, 2.55], {"dtype": "int8"}, F(2.55) / F(127.5), 0),
        ([-1, 2.55], {"dtype": "int8", "qmin": -127}, F(2.55) / F(127), 0),
        ([-1, 2.55], {"dtype": "uint4"}, F(2.55) / F(7.5), 8),
        ([-7, 3], {"dtype": "int4", "qmin": -7}, 1.0, 0),
        # Ties in lo / scale go to even before the odd qmin is added.
        ([-2.5, 251.5], {"qmin": -127, "symmetric": False}, 1.0, -125),
        ([-1.5, 253.5], {"dtype": "uint8", "symmetric": False}, 1.0, 2),
    ],
    ids=str,
)
def test_choose_qparams_by_hand(values, options, scale, zero_point):
    """What torch.ao's MinMaxObserver computes from the same values (quint4: its rule for 0..255)."""
    qparams = oc.choose_qparams(values, **options)
    assert qparams.scale == F(scale)
    assert qparams.zero_point == zero_point


def test_qparams_from_range_widens_to_zero():
    lo, hi = np.array([2, -6, -2], F), np.array([6, -2, 6], F)
    for symmetric in (True, False):
        found = qparams_from_range(lo, hi, "uint8", symmetric=symmetric, axis=0)
        assert found == oc.choose_qparams([[2, 6], [-6, -2], [-2, 6]], "uint8", symmetric=symmetric, axis=0)


# choose_qparams: limits


@pytest.mark.parametrize("values", [[0.0], [-0.0], [], [1e-45, -1e-45], [2.0**-101]], ids=str)
@every_scheme
def test_choose_qparams_zeros(dtype, qmin, qmax, symmetric, values):
    qparams = oc.choose_qparams(values, dtype, symmetric=symmetric, qmin=qmin, qmax=qmax)
    middle = 0 if QTYPES[dtype].signed else (qmin + qmax + 1) // 2
    assert qparams.scale == 1
    assert qparams.zero_point == (middle if symmetric else qmin)


def test_choose_qparams_smallest_range():
    limit = F(2.0**-100)
    below = np.nextafter(limit, F(0))
    assert oc.choose_qparams([limit], qmin=-127).scale == F(limit / F(127))
    assert oc.choose_qparams([-below, below]).scale == 1
    assert oc.choose_qparams([-limit / 2, limit / 2], symmetric=False).scale == F(limit / F(255))
    assert oc.choose_qparams([-limit / 2, below - limit / 2], symmetric=False).scale == 1


def test_choose_qparams_largest_values():
    for dtype, qtype in QTYPES.items():
        scale = oc.choose_qparams([MAX, -MAX], dtype).scale
        assert scale == F(MAX / F((qtype.qmax - qtype.qmin) / 2))
        scale = oc.choose_qparams([0, MAX], dtype, symmetric=False).scale
        assert scale == F(MAX / F(qtype.qmax - qtype.qmin))


@pytest.mark.parametrize(
    ("values", "options"),
    [([MAX, -MAX], {"symmetric": False}), ([MAX], {"dtype": "uint8", "qmin": 4, "qmax": 5})],
    ids=["affine", "symmetric_one_step"],
)
def test_choose_qparams_range_overflows(values, options):
    with pytest.raises(ValueError, match=r"range of values must fit float32.*got \S+ to 3\.4028235e\+38;"):
        oc.choose_qparams(values, **options)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_choose_qparams_empty(shape, symmetric):
    z = 128 if symmetric else 0
    for options in ({}, {"axis": 0}, {"axis": -1}, {"group_size": 2}, {"group_size": 2, "axis": 0}):
        qparams = oc.choose_qparams(np.zeros(shape), "uint8", symmetric=symmetric, **options)
        assert np.all(qparams.scale == 1)
        assert np.all(qparams.zero_point == z)
    assert oc.choose_qparams(np.zeros((3, 0)), axis=0).scale.shape == (3,)
    assert oc.choose_qparams(np.zeros((3, 0)), group_size=2).scale.shape == (3, 0)


# choose_qparams: errors


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"], ids=str)
@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"group_size": 3}], ids=str)
def test_choose_qparams_not_finite(dtype, options):
    x = np.zeros((3, 4), dtype)
    x[0, 2], x[1, 1], x[2, 3] = np.nan, np.inf, -np.inf
    message = r"x must be finite, got 3 of 12 values NaN or infinite, the first \(nan\) at x\[0, 2\]; remove"
    for order in "CF":
        with pytest.raises(ValueError, match=message):
            oc.choose_qparams(np.asarray(x, order=order), **options)
    with pytest.raises(ValueError, match=r"1 of 1 values NaN or infinite, the first \(-inf\) at x;"):
        oc.choose_qparams(-np.inf)


def test_choose_qparams_float64_beyond_float32():
    message = r"x must fit float32 .*got 1 of 3 values beyond it, the first \(-1e\+39\) at x\[2\]; scale x down"
    with pytest.raises(ValueError, match=message):
        oc.choose_qparams([1.0, 3.4e38, -1e39])


@pytest.mark.parametrize(
    "wrong",
    [1j, "1.0", None, [None], np.array([1], object), np.longdouble(1), np.array(["2020"], "M8[D]"), b"1", {}],
    ids=repr,
)
def test_choose_qparams_kind(wrong):
    with pytest.raises(TypeError, match=r"x must hold real numbers .* got \w+ of dtype .*; convert"):
        oc.choose_qparams(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 2}, r"one of the 2 axes of x, got axis 2 for shape \(3, 4\)"),
        ({"axis": -3}, "got axis -3"),
        ({"axis": 2, "group_size": 2}, "got axis 2"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"qmin": 1, "qmax": 5}, r"zero_point must lie in .*\[1, 5\], got 0"),
    ],
    ids=str,
)
def test_choose_qparams_options_refused(options, message):
    with pytest.raises(ValueError, match=message):
        oc.choose_qparams(np.ones((3, 4)), **options)
    with pytest.raises(ValueError, match="0 axes of x"):
        oc.choose_qparams(1.0, group_size=2)


def test_choose_qparams_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        oc.choose_qparams([1.0], "int8", True)


# choose_qparams: inputs of every dtype and layout


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_choose_qparams_dtypes(dtype, order):
    x = (np.arange(24).reshape(4, 6) % 9).astype(order + dtype)
    for options in ({}, {"axis": 1}, {"group_size": 4}):
        expected = oc.choose_qparams(x.astype(F), symmetric=False, **options)
        assert oc.choose_qparams(x, symmetric=False, **options) == expected


def test_choose_qparams_rounds_to_float32_first():
    big = 2**63 - 1
    assert oc.choose_qparams([big], qmin=-127).scale == F(F(big) / F(127))
    near = 1 + 2.0**-25 + 2.0**-40
    assert oc.choose_qparams([near], qmin=-127).scale == F(F(near) / F(127))


def layouts(x):
    """The same values as read-only, Fortran, strided, reversed, transposed and misaligned arrays."""
    read_only = x.copy()
    read_only.setflags(write=False)
    wide = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)
    wide[::2, 1::3] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    assert not raw.flags.aligned
    return {
        "read_only": read_only,
        "fortran": np.asfortranarray(x),
        "strided": wide[::2, 1::3],
        "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "transposed": x.T.copy().T,
        "misaligned": raw,
    }


@pytest.mark.parametrize("layout", list(layouts(np.zeros((1, 1), F))))
def test_choose_qparams_layouts(layout):
    x = sample((6, 10))
    before = x.copy()
    for options in ({}, {"axis": 0}, {"axis": 1}, {"group_size": 4}, {"group_size": 4, "axis": 0}):
        for symmetric in (True, False):
            expected = oc.choose_qparams(x, symmetric=symmetric, **options)
            assert oc.choose_qparams(layouts(x)[layout], symmetric=symmetric, **options) == expected
    assert x.tobytes() == before.tobytes()


def test_choose_qparams_ignores_error_state():
    with np.errstate(all="raise"):
        assert oc.choose_qparams([1e-45, 2.0**-101], symmetric=False).scale == 1
        assert oc.choose_qparams([-1.0, 1e-45], symmetric=False).scale > 0
        assert oc.QParams(1e-300, 0).scale > 0


def test_qparams_docstring_examples():
    result = doctest.testmod(importlib.import_module("octavo.qparams"))
    assert result.attempted > 0
    assert result.failed == 0

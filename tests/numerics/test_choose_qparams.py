"""choose_qparams against its equations, restated one float32 operation at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc
from octavo._numerics.params import qparams_from_range

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


@pytest.mark.slow
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


@pytest.mark.slow
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

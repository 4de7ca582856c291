"""quantize, dequantize and fake_quantize against their equations, restated here for one element at a time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc

F = np.float32
MAX = np.finfo(F).max
RANGES = [
    ("int8", -128, 127),
    ("int8", -127, 127),
    ("uint8", 0, 255),
    ("int4", -8, 7),
    ("int4", -7, 7),
    ("uint4", 0, 15),
    ("uint8", 3, 6),
]
every_range = pytest.mark.parametrize(("dtype", "qmin", "qmax"), RANGES, ids=str)
GRAINS = [
    {},
    {"axis": 0},
    {"axis": 1},
    {"axis": -1},
    {"group_size": 4},
    {"group_size": 4, "axis": 0},
    {"group_size": 5},
]
every_grain = pytest.mark.parametrize("grain", GRAINS, ids=str)


def expected_integer(x, scale, zero_point, qmin, qmax):
    with np.errstate(all="ignore"):
        steps = np.rint(F(x) * F(F(1) / scale))
    return int(min(max(steps, F(qmin - zero_point)), F(qmax - zero_point))) + zero_point


def expected_real(q, scale, zero_point):
    with np.errstate(all="ignore"):
        return F(int(q) - zero_point) * scale


def each_element(shape, qparams):
    """Indices into the data, each with its own (scale, zero_point)."""
    for index in np.ndindex(shape):
        if qparams.axis is None:
            of_scale = ()
        elif qparams.group_size is None:
            of_scale = (index[qparams.axis],)
        else:
            a = qparams.axis
            of_scale = (*index[:a], index[a] // qparams.group_size, *index[a + 1 :])
        yield index, qparams.scale[of_scale], int(qparams.zero_point[of_scale])


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


def assert_definitions(x, qparams):
    """All three functions on `x`, to the bit."""
    q = np.empty(x.shape, qparams.qtype.storage)
    reals = np.empty(x.shape, F)
    for index, scale, zero_point in each_element(x.shape, qparams):
        q[index] = expected_integer(x[index], scale, zero_point, qparams.qmin, qparams.qmax)
        reals[index] = expected_real(q[index], scale, zero_point)
    assert_same_bits(oc.quantize(x, qparams), q)
    assert_same_bits(oc.dequantize(q, qparams), reals)
    with np.errstate(over="ignore"):
        own = x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.dtype(F)
        assert_same_bits(oc.fake_quantize(x, qparams), reals.astype(own))


def sample(shape, seed=0):
    x = np.random.default_rng(seed).normal(0.3, 2.0, shape).astype(F)
    x.ravel()[::7] = 0
    x.ravel()[::11] *= -1e-3
    return x


# The equations


@every_range
@every_grain
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_quantize_chosen_parameters(dtype, qmin, qmax, grain, symmetric):
    x = sample((6, 11))
    narrower = F(0.7) * x  # so that some values of x are clamped
    qparams = oc.choose_qparams(narrower, dtype, symmetric=symmetric, qmin=qmin, qmax=qmax, **grain)
    assert_definitions(x, qparams)


@pytest.mark.slow
@every_range
def test_quantize_zero_point_at_the_limits(dtype, qmin, qmax):
    x = np.linspace(-300, 300, 1201, dtype=F)
    for zero_point in {qmin, qmin + 1, (qmin + qmax) // 2, qmax - 1, qmax}:
        assert_definitions(x, oc.QParams(1, zero_point, dtype, qmin=qmin, qmax=qmax))


@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 5, 6, 50])
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_quantize_groups_of_three_dimensions(group_size, axis):
    x = sample((4, 5, 3))
    assert_definitions(x, oc.choose_qparams(x, symmetric=False, axis=axis, group_size=group_size))


any_float = st.floats(width=32, allow_nan=False)
any_scale = st.floats(2.0**-126, float(MAX), width=32)
small_arrays = hnp.arrays(F, hnp.array_shapes(max_dims=2, max_side=5), elements=any_float)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(x=small_arrays, scale=any_scale, limits=st.sampled_from(RANGES), data=st.data())
def test_quantize_any_values_and_scale(x, scale, limits, data):
    dtype, qmin, qmax = limits
    zero_point = data.draw(st.integers(qmin, qmax))
    assert_definitions(x, oc.QParams(scale, zero_point, dtype, qmin=qmin, qmax=qmax))


@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_quantize_negative_axis_counts_from_the_end(axis):
    x = sample((3, 3))
    qparams = oc.QParams([1, 0.5, 0.25], [0, 1, 2], axis=axis)
    assert_same_bits(oc.quantize(x, qparams), oc.quantize(x, oc.QParams(*qparams, axis=axis % 2)))
    stacked = oc.quantize(np.stack([x, x]), oc.QParams(*qparams, axis=axis)) if axis else None
    assert stacked is None or np.array_equal(stacked[0], oc.quantize(x, qparams))


# Properties


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    x=hnp.arrays(F, st.integers(1, 20), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    limits=st.sampled_from(RANGES[:-1]),
    symmetric=st.booleans(),
)
def test_quantize_round_trip_within_half_a_step(x, limits, symmetric):
    dtype, qmin, qmax = limits
    qparams = oc.choose_qparams(x, dtype, symmetric=symmetric, qmin=qmin, qmax=qmax)
    error = np.abs(oc.fake_quantize(x, qparams).astype(np.float64) - x)
    assert np.all(error <= 0.5001 * np.float64(qparams.scale))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(scale=st.floats(2.0**-126, 2.0**119, width=32), limits=st.sampled_from(RANGES), data=st.data())
def test_quantize_grid_points_come_back(scale, limits, data):
    dtype, qmin, qmax = limits
    qparams = oc.QParams(scale, data.draw(st.integers(qmin, qmax)), dtype, qmin=qmin, qmax=qmax)
    grid = np.arange(qmin, qmax + 1).astype(qparams.qtype.storage)
    reals = oc.dequantize(grid, qparams)
    assert_same_bits(oc.quantize(reals, qparams), grid)
    assert_same_bits(oc.fake_quantize(reals, qparams), reals)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(largest=st.floats(2.0**-100, 2.0**127, width=32), limit=st.sampled_from([("int8", 127), ("int4", 7)]))
def test_quantize_largest_value_comes_back_within_one_ulp(largest, limit):
    x = np.array([-largest, largest, 0], F)
    qparams = oc.choose_qparams(x, limit[0], qmin=-limit[1])
    assert oc.quantize(x, qparams).tolist() == [-limit[1], limit[1], 0]
    assert np.all(np.abs(oc.fake_quantize(x, qparams) - x) <= np.spacing(np.abs(x)))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(x=small_arrays.filter(lambda x: np.all(np.abs(x) < 1e38)), limits=st.sampled_from(RANGES))
def test_quantize_zero_is_exact_and_order_is_kept(x, limits):
    dtype, qmin, qmax = limits
    qparams = oc.choose_qparams(x, dtype, symmetric=False, qmin=qmin, qmax=qmax)
    assert oc.quantize(0.0, qparams) == qparams.zero_point
    assert oc.dequantize(qparams.zero_point, qparams) == 0
    ordered = oc.quantize(np.sort(x, axis=None), qparams).astype(int)
    assert np.all(np.diff(ordered) >= 0)


# Rounding, saturation and the ends of float32


def test_quantize_ties_to_even():
    x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    assert oc.quantize(x, oc.QParams(1, 0)).tolist() == [-2, -2, 0, 0, 2, 2, 4]
    # Rounded before the zero point is added: an odd one does not move the ties.
    assert oc.quantize(x, oc.QParams(1, 1)).tolist() == [-1, -1, 1, 1, 3, 3, 5]


def test_quantize_multiplies_by_the_rounded_reciprocal():
    scale = F(0.1)
    candidates = ((np.arange(-120, 120) + 0.5) * np.float64(scale)).astype(F)
    candidates = np.concatenate([np.nextafter(candidates, F(d)) for d in (-99, 99)] + [candidates])
    divided = np.rint(candidates / scale).astype(np.int8)
    q = oc.quantize(candidates, oc.QParams(scale, 0))
    assert np.any(q != divided), "no candidate tells the product from the quotient"
    assert_definitions(candidates, oc.QParams(scale, 0))


@every_range
def test_quantize_infinity_saturates(dtype, qmin, qmax):
    for zero_point, scale in itertools.product((qmin, qmax), (1e-45, 1.0, MAX)):
        qparams = oc.QParams(scale, zero_point, dtype, qmin=qmin, qmax=qmax)
        for x in (np.array([-np.inf, np.inf], F), np.array([-np.inf, np.inf], np.float16)):
            assert oc.quantize(x, qparams).tolist() == [qmin, qmax]
    assert oc.quantize([-1e300, 1e300], qparams).tolist() == [qmin, qmax]


@pytest.mark.parametrize("scale", [1e-40, 2.0**-126, 1e-30, 1.0, 1e30, MAX], ids=str)
def test_quantize_ends_of_float32(scale):
    values = [
        0,
        1e-45,
        1.1754942e-38,
        2.0**-126,
        2.0**-100,
        1,
        2.0**24 + 1,
        2.0**31,
        2.0**63,
        3.4e38,
        MAX,
        np.inf,
    ]
    x = np.array([sign * F(v) for v in values for sign in (1, -1)], F)
    for zero_point in (-128, 0, 127):
        assert_definitions(x, oc.QParams(scale, zero_point))


def test_quantize_raised_scale():
    assert oc.quantize([2.0**-126, 2.0**-125], oc.QParams(1e-40, 0)).tolist() == [1, 2]


def test_fake_quantize_has_no_negative_zero():
    x = np.array([-0.0, -0.25, -0.5, -1e-45], F)
    for symmetric in (True, False):
        qparams = oc.choose_qparams([-100.0, 100.0], symmetric=symmetric)
        zeros = np.zeros(4, F)
        with np.errstate(all="ignore"):
            tenth = x * F(0.1)
        assert_same_bits(oc.fake_quantize(tenth, qparams), zeros)
        assert_same_bits(oc.dequantize(oc.quantize(tenth, qparams), qparams), zeros)


# Errors


@pytest.mark.parametrize("function", [oc.quantize, oc.fake_quantize])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"], ids=str)
def test_quantize_nan(function, dtype):
    x = np.full((3, 6), np.inf, dtype)
    x[0, 5] = x[1, 0] = np.nan
    for grain in ({}, {"axis": 1}, {"group_size": 4}):
        qparams = oc.choose_qparams(np.ones((3, 6)), **grain)
        for order in "CF":
            with pytest.raises(
                ValueError,
                match=r"x must not hold NaN, got 2 of 18 values, the first at x\[0, 5\]; no integer stands for NaN",
            ):
                function(np.asarray(x, order=order), qparams)
    with pytest.raises(ValueError, match="1 of 1 values, the first at x;"):
        function(np.nan, oc.QParams(1, 0))


@pytest.mark.parametrize("function", [oc.quantize, oc.fake_quantize])
@pytest.mark.parametrize("wrong", [1j, "1", None, [None], np.longdouble(1), {}], ids=repr)
def test_quantize_kind(function, wrong):
    with pytest.raises(TypeError, match=r"x must hold real numbers .* got"):
        function(wrong, oc.QParams(1, 0))


@pytest.mark.parametrize("wrong", [1.0, [1.0], True, 1j, "1", None, 2**70], ids=repr)
def test_dequantize_kind(wrong):
    with pytest.raises(TypeError, match=r"q must hold integers, got .* of dtype"):
        oc.dequantize(wrong, oc.QParams(1, 0))


@pytest.mark.parametrize("function", [oc.quantize, oc.dequantize, oc.fake_quantize])
@pytest.mark.parametrize("wrong", [None, 0.5, (0.5, 0), oc.QParams])
def test_quantize_needs_qparams(function, wrong):
    with pytest.raises(TypeError, match=r"qparams must be a QParams, got .*choose_qparams"):
        function([1], wrong)


@pytest.mark.parametrize("function", [oc.quantize, oc.dequantize, oc.fake_quantize])
@pytest.mark.parametrize(
    ("made_for", "grain", "shape", "message"),
    [
        (
            (3, 4),
            {"axis": 0},
            (4, 3),
            r"of shape \(4, 3\) needs a scale of shape \(4,\) \(axis=0, .*got .* \(3,\); ch",
        ),
        ((3, 1), {"axis": 1}, (3, 4), r"needs a scale of shape \(4,\) .*got one of shape \(1,\)"),
        ((3, 4), {"axis": 1}, (4,), r"one of the 1 axes of the data, got axis 1 for shape \(4,\)"),
        ((3, 4), {"axis": 0}, (), r"one of the 0 axes"),
        (
            (3, 8),
            {"group_size": 4},
            (3, 9),
            r"scale of shape \(3, 3\) \(axis=1, group_size=4\), got .* \(3, 2\)",
        ),
        ((3, 8), {"group_size": 4}, (1, 8), r"scale of shape \(1, 2\)"),
        ((3, 8), {"group_size": 4}, (2, 3, 8), r"scale of shape \(2, 1, 8\)"),
        ((3, 8), {"group_size": 4}, (8,), r"one of the 1 axes"),
    ],
    ids=str,
)
def test_quantize_shape_does_not_fit(function, made_for, grain, shape, message):
    qparams = oc.choose_qparams(np.ones(made_for), **grain)
    with pytest.raises(ValueError, match=message):
        function(np.ones(shape, np.int8), qparams)


def test_dequantize_names_q():
    with pytest.raises(ValueError, match=r"^q of shape \(4,\)"):
        oc.dequantize(np.ones(4, np.int8), oc.QParams([1], 0, axis=0))


# Inputs and outputs of every dtype and layout


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_quantize_dtypes(dtype, order):
    x = (np.arange(24).reshape(4, 6) * 5).astype(order + dtype)
    for grain in GRAINS:
        qparams = oc.choose_qparams(x, symmetric=False, **grain)
        assert_definitions(x, qparams)
        assert oc.fake_quantize(x, qparams).dtype == (dtype if dtype[0] == "f" else "f4")


def test_quantize_rounds_to_float32_first():
    scale = F(0.1)
    x = (np.arange(-120, 120) + 0.5) * np.float64(scale)
    in_float64 = np.rint((x * (F(1) / scale)).astype(F)).astype(np.int8)
    assert np.any(oc.quantize(x, oc.QParams(scale, 0)) != in_float64), "no value tells the two apart"
    assert_definitions(x, oc.QParams(scale, 0))
    assert_definitions(np.array([2**24 + 1, 2**40 + 3**20, -(2**62) + 1]), oc.QParams(2.0**18, 0))


def test_fake_quantize_may_overflow_float16():
    x = np.array([65504], np.float16)
    assert oc.fake_quantize(x, oc.QParams(65536, 0)).tolist() == [np.inf]


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u8", ">i4"])
@every_grain
def test_dequantize_dtypes(dtype, grain):
    q = np.arange(66).reshape(6, 11).astype(dtype)
    qparams = oc.choose_qparams(sample((6, 11)), symmetric=False, **grain)
    assert_same_bits(oc.dequantize(q, qparams), oc.dequantize(q.astype(np.int8), qparams))


@pytest.mark.parametrize(
    ("qtype", "wrong", "dtype"),
    [
        ("int8", 128, np.uint8),
        ("int8", -129, np.int16),
        ("int8", 2**64 - 1, np.uint64),
        ("uint8", -1, np.int8),
        ("uint8", 256, np.int32),
        ("int4", 128, np.int64),
        ("uint4", -1, ">i2"),
    ],
)
def test_dequantize_beyond_storage(qtype, wrong, dtype):
    q = np.zeros((2, 3), dtype)
    q[1, 0] = wrong
    with pytest.raises(ValueError, match=rf"q must fit u?int8, the storage of q{qtype}, got {wrong} at q\[1, 0\]; ch"):
        oc.dequantize(q, oc.QParams(1, 0, qtype))


def test_dequantize_outside_the_range_is_not_clamped():
    assert oc.dequantize([-128, 100, 127], oc.QParams(0.5, 1, "int4")).tolist() == [-64.5, 49.5, 63.0]


def test_dequantize_beyond_float32_is_infinite():
    assert oc.dequantize([-2, -1, 0, 1, 2], oc.QParams(MAX, 0)).tolist() == [-np.inf, -MAX, 0, MAX, np.inf]


def layouts(x):
    """The same values as read-only, Fortran, strided, reversed, transposed and misaligned arrays."""
    read_only = x.copy()
    read_only.setflags(write=False)
    wide = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)
    wide[::2, 1::3] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return {
        "read_only": read_only,
        "fortran": np.asfortranarray(x),
        "strided": wide[::2, 1::3],
        "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "transposed": x.T.copy().T,
        "misaligned": raw,
    }


@pytest.mark.parametrize("layout", list(layouts(np.zeros((1, 1), F))))
@every_grain
def test_quantize_layouts(layout, grain):
    x = sample((6, 10))
    qparams = oc.choose_qparams(x, symmetric=False, **grain)
    q = oc.quantize(x, qparams)
    for function, source in (
        (oc.quantize, x),
        (oc.fake_quantize, x),
        (oc.dequantize, q),
        (oc.dequantize, q.astype(int)),
    ):
        given_array = layouts(source)[layout]
        before = given_array.tobytes()
        result = function(given_array, qparams)
        assert_same_bits(result, function(source, qparams))
        assert given_array.tobytes() == before
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert not np.shares_memory(result, given_array)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize(
    "grain", [{}, {"axis": 0}, {"axis": -1}, {"group_size": 2}, {"group_size": 2, "axis": 0}], ids=str
)
def test_quantize_empty(shape, grain):
    qparams = oc.choose_qparams(np.zeros(shape), "uint4", **grain)
    assert_definitions(np.zeros(shape, F), qparams)


def test_quantize_scalars_and_lists_give_arrays():
    qparams = oc.QParams(0.5, 0)
    for function, expected in ((oc.quantize, 3), (oc.fake_quantize, 1.5), (oc.dequantize, 1.0)):
        argument = 2 if function is oc.dequantize else 1.5
        for x in (argument, np.array(argument)):
            assert isinstance(function(x, qparams), np.ndarray)
            assert function(x, qparams).shape == ()
            assert function(x, qparams) == expected
        assert function([argument, argument], qparams).tolist() == [expected, expected]


def test_quantize_ignores_error_state():
    with np.errstate(all="raise"):
        oc.quantize([1e300, 1e-45, np.inf], oc.QParams(1e-40, 0))
        oc.fake_quantize([1e38, 1e-45], oc.QParams(MAX, 0))
        oc.fake_quantize(np.array([1], np.float16), oc.QParams(MAX, 0))
        oc.dequantize([2], oc.QParams(MAX, 0))

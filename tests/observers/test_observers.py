"""Observers against their equations and plain NumPy; torch itself is the judge in test_observers_torch.py."""

import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc
from pickle_fixtures import contents

F = np.float32
MIN_MAX = [oc.MinMaxObserver, oc.PerChannelMinMaxObserver]
MOVING = [oc.MovingAverageMinMaxObserver, oc.MovingAveragePerChannelMinMaxObserver]
HISTOGRAM = [oc.HistogramObserver, oc.PercentileObserver, oc.EntropyObserver, oc.MSEObserver]
PER_CHANNEL = [oc.PerChannelMinMaxObserver, oc.MovingAveragePerChannelMinMaxObserver]
EVERY = MIN_MAX + MOVING + HISTOGRAM


def every(observers):
    return pytest.mark.parametrize("cls", observers, ids=lambda cls: cls.__name__)


def per_channel(cls):
    return cls in PER_CHANNEL


def batches(count=5, shape=(4, 100), seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(0.3, 1 + i, shape)).astype(F) for i in range(count)]


def fed(observer, data):
    for x in data:
        observer(x)
    return observer


def state(observer):
    return contents(observer)


def scaled(lo, hi, qmin, qmax, symmetric, zero_point):
    """The equations of Observer for one pair, in float32."""
    lo, hi = min(F(lo), F(0)), max(F(hi), F(0))
    if symmetric:
        return max(F(max(-lo, hi) / F((qmax - qmin) / 2)), F(2.0**-23)), zero_point
    scale = max(F(F(hi - lo) / F(qmax - qmin)), F(2.0**-23))
    return scale, int(np.clip(qmin - np.rint(lo / scale), qmin, qmax))


# what is common to all


@every(EVERY)
def test_call_returns_the_batch_itself(cls):
    x = batches(1)[0]
    kept = x.copy()
    assert cls()(x) is x
    np.testing.assert_array_equal(x, kept)


@every(EVERY)
def test_defaults_are_those_of_torch(cls):
    observer = cls()
    assert observer.dtype is oc.quint8
    assert observer.qscheme == ("per_channel_affine" if per_channel(cls) else oc.per_tensor_affine)
    assert (observer.quant_min, observer.quant_max, observer.eps) == (0, 255, 2.0**-23)


@pytest.mark.slow
@every(EVERY)
@pytest.mark.parametrize("dtype", ["int8", "qint8", oc.qint8, np.int8, np.dtype(np.int8)], ids=str)
def test_dtype_takes_every_spelling(cls, dtype):
    params = fed(cls(dtype=dtype), batches()).calculate_qparams()
    assert params.qtype is oc.qint8
    assert (params.qmin, params.qmax, params.axis) == (-128, 127, 0 if per_channel(cls) else None)
    assert params.scale.shape == ((4,) if per_channel(cls) else ())


@every(EVERY)
def test_calculate_without_data_is_an_error(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__} has seen no data: call it on batches"):
        cls().calculate_qparams()


@every(EVERY)
def test_empty_batches_change_nothing(cls):
    observer = cls()
    for shape in ((0,), (0, 4), (4, 0), (3, 0, 2)):
        observer(np.empty(shape, F))
    assert not observer.seen
    expected = fed(cls(), batches()).calculate_qparams()
    assert fed(cls(), [b for x in batches() for b in (x, x[:, :0])]).calculate_qparams() == expected


@every(EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("before", [0, 2])
def test_nonfinite_data_are_an_error_and_leave_the_state(cls, bad, before):
    observer = fed(cls(), batches(before))
    kept = state(observer)
    x = batches(1)[0]
    x[1, 2] = x[3, 4] = bad
    with pytest.raises(ValueError, match=rf"{cls.__name__}: .*2 of 400 values NaN or infinite, the first .* x\[1, 2\]"):
        observer(x)
    assert state(observer) == kept


@every(EVERY)
def test_values_beyond_float32_are_an_error(cls):
    with pytest.raises(ValueError, match=r"fit float32.*1 of 2 values beyond it.* at x\[1\]"):
        cls()(np.array([1.0, -1e300]))


@every(EVERY)
@pytest.mark.parametrize("x", ["text", [1 + 2j], None, [object()]], ids=["text", "complex", "None", "objects"])
def test_data_of_another_kind_are_a_type_error(cls, x):
    with pytest.raises(TypeError, match="x must hold real numbers"):
        cls()(x)


@every(EVERY)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("data", [0.0, 2.0**-110], ids=["zeros", "tiny"])
def test_only_zeros_have_scale_one_and_a_warning(cls, symmetric, data):
    scheme = f"per_{'channel' if per_channel(cls) else 'tensor'}_{'symmetric' if symmetric else 'affine'}"
    observer = fed(cls(qscheme=scheme, dtype="int8"), [np.full((2, 3), data, F)] * 2)
    with pytest.warns(UserWarning, match=rf"{cls.__name__} has seen only zeros") as record:
        params = observer.calculate_qparams()
    assert record[0].filename == __file__
    np.testing.assert_array_equal(params.scale, 1)
    np.testing.assert_array_equal(oc.quantize(np.zeros((2, 3)), params), 0 if symmetric else -128)


@every(EVERY)
def test_range_beyond_float32_is_an_error_that_names_the_range(cls):
    observer = fed(cls(), [np.array([[-3e38, 3e38]], F)])
    with pytest.raises(ValueError, match=r"range of values must fit float32.*scale the values down"):
        observer.calculate_qparams()


@every(EVERY)
@pytest.mark.parametrize("value", [1e-30, 1e30, 1e38, -5.0, 7.0])
def test_constant_data_are_covered(cls, value):
    observer = fed(cls(eps=0.0), [np.full((1, 50), value, F)] * 3)
    params = observer.calculate_qparams()
    np.testing.assert_allclose(oc.fake_quantize(np.full((1, 50), value, F), params), F(value), rtol=0.51 / 255)


@every(EVERY)
def test_scales_are_raised_to_eps(cls):
    data = [np.linspace(-1e-6, 3e-6, 100, dtype=F).reshape(1, -1)]
    for eps in (2.0**-23, 0.125):
        scale, zero_point = fed(cls(eps=eps), data).calculate_qparams()
        np.testing.assert_array_equal(scale, F(eps))
        np.testing.assert_array_equal(zero_point, np.rint(F(1e-6) / F(eps)))
    assert (fed(cls(eps=0.0), data).calculate_qparams().scale < 2e-8).all()


@pytest.mark.slow
@every(EVERY)
def test_memory_is_constant(cls):
    observer = fed(cls(), batches(1))
    first, pickled = observer.nbytes, len(state(observer))
    for i in range(200):
        observer(batches(1, seed=i)[0] * F(1 + i % 17))
    assert observer.nbytes == first > 0
    assert len(state(observer)) <= pickled + 16


@pytest.mark.slow
@every(EVERY)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copy", "pickle"])
def test_copies_are_equal_and_independent(cls, copied):
    observer = fed(cls(), batches(2))
    other = copied(observer)
    assert other.calculate_qparams() == observer.calculate_qparams()
    assert other.calculate_qparams().qtype is oc.quint8
    kept = state(observer)
    other(np.full((4, 1), 1000, F))
    assert state(observer) == kept
    assert fed(other, []).calculate_qparams() != observer.calculate_qparams()


@every(EVERY)
def test_reset_forgets(cls):
    for reset in (cls.reset, cls.reset_min_max_vals):
        observer = fed(cls(), batches(3))
        reset(observer)
        assert not observer.seen
        assert observer.nbytes == cls().nbytes
        assert (
            fed(observer, batches(2, seed=5)).calculate_qparams() == fed(cls(), batches(2, seed=5)).calculate_qparams()
        )


@every(EVERY)
def test_with_args_chains_and_makes_new_observers(cls):
    factory = cls.with_args(dtype="int8", eps=0.5).with_args(eps=0.25)
    one, two = factory(), factory(dtype="uint8")
    assert type(one) is cls
    assert (one.dtype, one.eps, two.dtype) == (oc.qint8, 0.25, oc.quint8)
    assert fed(one, batches()) is not factory()
    assert not two.seen
    assert factory == cls.with_args(dtype="int8", eps=0.25)
    assert hash(factory) == hash(cls.with_args(dtype="int8", eps=0.25))
    assert pickle.loads(pickle.dumps(factory)) == factory
    assert repr(factory) == f"{cls.__name__}.with_args(dtype=int8, eps=0.25)"


@every(EVERY)
def test_repr_shows_kind_options_and_range(cls):
    observer = cls(dtype="int8", quant_min=-127)
    assert repr(observer).startswith(f"{cls.__name__}(dtype=qint8, qscheme='per_")
    assert "quant_min=-127" in repr(observer)
    assert "quant_max" not in repr(observer)
    assert "no data" in repr(observer)
    assert "min_val=" in repr(fed(observer, batches()))


@every(EVERY)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dtype": "int16"}, ValueError, "dtype must be"),
        ({"dtype": 8}, TypeError, "dtype must be"),
        ({"qscheme": "affine"}, ValueError, "qscheme of .* must be 'per_"),
        ({"qscheme": 1}, TypeError, "qscheme must be a string"),
        ({"quant_min": -1}, ValueError, "0 <= qmin < qmax <= 255"),
        ({"quant_min": 1.5}, TypeError, "integer"),
        ({"quant_min": 9, "quant_max": 9}, ValueError, "qmin < qmax"),
        ({"eps": -1.0}, ValueError, "eps must be finite and at least 0"),
        ({"eps": np.nan}, ValueError, "eps must be finite"),
        ({"eps": "small"}, TypeError, "eps must be a number"),
        ({"reduce_range": True}, TypeError, "reduce_range"),
    ],
    ids=str,
)
def test_bad_options_are_refused(cls, options, error, match):
    with pytest.raises(error, match=match):
        cls(**options)


@every(EVERY)
def test_symmetric_signed_range_must_hold_zero(cls):
    scheme = "per_channel_symmetric" if per_channel(cls) else "per_tensor_symmetric"
    with pytest.raises(ValueError, match="zero_point must lie in"):
        cls(dtype="int8", qscheme=scheme, quant_min=1, quant_max=5)


@every(EVERY)
def test_qscheme_of_the_other_grain_is_refused(cls):
    with pytest.raises(ValueError, match=f"qscheme of {cls.__name__} must be"):
        cls(qscheme="per_tensor_affine" if per_channel(cls) else "per_channel_affine")


@every(EVERY)
def test_merge_of_another_kind_is_refused(cls):
    observer = fed(cls(), batches(1))
    kept = state(observer)
    with pytest.raises(TypeError, match=f"only a {cls.__name__} can be merged"):
        observer.merge(next(other for other in EVERY if other is not cls)())
    with pytest.raises(ValueError, match=r"same options.*eps: .* and 0\.5"):
        observer.merge(fed(cls(eps=0.5), batches(1)))
    assert state(observer) == kept


@every(EVERY)
def test_merge_with_one_that_saw_nothing(cls):
    observer, expected = fed(cls(), batches()), fed(cls(), batches()).calculate_qparams()
    assert observer.merge(cls()) is observer
    assert observer.calculate_qparams() == expected
    assert cls().merge(observer).calculate_qparams() == expected
    assert not cls().merge(cls()).seen


@every(EVERY)
def test_merge_leaves_the_other_alone_and_shares_nothing(cls):
    one, two = cls(), fed(cls(), batches(2))
    kept = state(two)
    one.merge(two)(np.full((4, 9), 500, F))
    assert state(two) == kept


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
@every(EVERY)
def test_dtypes_and_layouts_count_as_float32(cls, dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 100, (6, 8)).astype(dtype)
    expected = fed(cls(), [np.ascontiguousarray(x[::2].T, F)]).calculate_qparams()
    view = x[::2].T
    view.flags.writeable = False
    assert fed(cls(), [view]).calculate_qparams() == expected


# smallest and largest values


@every(MIN_MAX)
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize(
    ("dtype", "qmin", "qmax"), [("uint8", 0, 255), ("int8", -128, 127), ("int8", -127, 127), ("int4", -8, 7)]
)
def test_min_max_follows_the_equations(cls, symmetric, dtype, qmin, qmax):
    data = batches(3)
    scheme = f"per_{'channel' if per_channel(cls) else 'tensor'}_{'symmetric' if symmetric else 'affine'}"
    scale, zero_point = fed(cls(dtype=dtype, qscheme=scheme, quant_min=qmin, quant_max=qmax), data).calculate_qparams()
    rows = np.hstack(data) if per_channel(cls) else np.hstack(data).reshape(1, -1)
    middle = 128 if dtype == "uint8" else 0
    expected = [scaled(r.min(), r.max(), qmin, qmax, symmetric, middle) for r in rows]
    assert np.ravel(scale).tolist() == [s for s, _ in expected]
    assert np.ravel(zero_point).tolist() == [z for _, z in expected]


@pytest.mark.parametrize("ch_axis", [0, 1, 2, -1, -3])
@every(PER_CHANNEL)
def test_per_channel_takes_any_axis(cls, ch_axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(F)
    params = fed(cls(ch_axis=ch_axis), [x]).calculate_qparams()
    assert params == oc.QParams(*oc.choose_qparams(x, "uint8", symmetric=False, axis=ch_axis), "uint8", axis=ch_axis)
    assert oc.quantize(x, params).shape == x.shape


@every(PER_CHANNEL)
def test_per_channel_needs_the_same_channels(cls):
    observer = fed(cls(), batches(1))
    kept = state(observer)
    with pytest.raises(ValueError, match=r"same number of channels .*ch_axis=0.*got 3 after 4"):
        observer(np.ones((3, 2), F))
    with pytest.raises(ValueError, match=r"same number of channels"):
        observer.merge(fed(cls(), [np.ones((3, 2), F)]))
    with pytest.raises(ValueError, match=r"x must have an axis 2 \(ch_axis\), got shape \(4, 100\)"):
        cls(ch_axis=2)(batches(1)[0])
    assert state(observer) == kept


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_per_channel_of_zeros_among_others_has_scale_one_without_warning(symmetric):
    scheme = "per_channel_symmetric" if symmetric else "per_channel_affine"
    params = fed(oc.PerChannelMinMaxObserver(qscheme=scheme, dtype="int8"), [F([[0, 0], [1, 2]])]).calculate_qparams()
    assert params.scale[0] == 1
    assert params.scale[1] == F(2) / F(127.5 if symmetric else 255)


rows = hnp.arrays(F, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4).map(lambda s: (3, s[1])),
                  elements=st.floats(-1000, 1000, width=32))  # fmt: skip


@pytest.mark.slow
@every(MIN_MAX)
@settings(max_examples=60, deadline=None)
@given(data=st.lists(rows, min_size=1, max_size=6), draw=st.data())
def test_merge_is_exact_for_every_split_and_order(cls, data, draw):
    whole = fed(cls(), data)
    owners = [draw.draw(st.integers(0, 2)) for _ in data]
    parts = [fed(cls(), [x for x, o in zip(data, owners, strict=True) if o == i]) for i in range(3)]
    merged = functools.reduce(lambda a, b: a.merge(b), draw.draw(st.permutations(parts)))
    np.testing.assert_array_equal(merged.min_val, whole.min_val)
    np.testing.assert_array_equal(merged.max_val, whole.max_val)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert merged.calculate_qparams() == whole.calculate_qparams()


@every(MOVING)
def test_moving_average_follows_its_recurrence(cls):
    observer = cls(averaging_constant=0.1)
    lo = hi = None
    for x in batches(20):
        observer(x)
        a, b = (x.min(axis=1), x.max(axis=1)) if per_channel(cls) else (x.min(), x.max())
        lo, hi = (a, b) if lo is None else (lo + F(0.1) * (a - lo), hi + F(0.1) * (b - hi))
        np.testing.assert_array_equal(observer.min_val, lo)
        np.testing.assert_array_equal(observer.max_val, hi)


@every(MOVING)
@pytest.mark.parametrize("split", [1, 7, 19])
@pytest.mark.parametrize("constant", [0.01, 0.3, 1.0])
def test_moving_average_merge_continues_the_stream(cls, split, constant):
    data, make = batches(20), functools.partial(cls, averaging_constant=constant)
    whole = fed(make(), data)
    merged = fed(make(), data[:split]).merge(fed(make(), data[split:]))
    np.testing.assert_allclose(merged.min_val, whole.min_val, rtol=1e-6)
    np.testing.assert_allclose(merged.max_val, whole.max_val, rtol=1e-6)
    third = batches(3, seed=9)
    again = fed(make(), [np.zeros((4, 1), F)]).merge(merged).merge(fed(make(), third))
    expected = fed(make(), [np.zeros((4, 1), F), *data, *third])
    np.testing.assert_allclose(again.max_val, expected.max_val, rtol=2e-6)


@every(MOVING)
def test_moving_average_refuses_bad_constants_and_overflow(cls):
    for constant in (0.0, 1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="averaging_constant must"):
            cls(averaging_constant=constant)
    observer = fed(cls(), [np.full((1, 1), -3e38, F)])
    kept = state(observer)
    with pytest.raises(ValueError, match="differ by more than float32 holds"):
        observer(np.full((1, 1), 3e38, F))
    assert state(observer) == kept


# a new observer is one class


class HalfRange(oc.MinMaxObserver):
    def _range(self):
        lo, hi = super()._range()
        return lo / 2, hi / 2


def test_observer_of_ones_own_is_one_class():
    observer = fed(HalfRange.with_args(dtype="int8")(), batches())
    lo, hi = (f(np.stack(batches())) / 2 for f in (np.min, np.max))
    assert observer.calculate_qparams().scale == F(hi - lo) / F(255)

"""The histogram and the ranges that its observers choose, against plain NumPy on the data themselves."""

import warnings

import numpy as np
import pytest

import octavo as oc
from octavo._observers.histogram_math import Histogram

F = np.float32
HISTOGRAM = [oc.HistogramObserver, oc.PercentileObserver, oc.EntropyObserver, oc.MSEObserver]
every = pytest.mark.parametrize("cls", HISTOGRAM, ids=lambda cls: cls.__name__)


def normal(n, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(F)


def fed(observer, *data):
    for x in data:
        observer(x)
    return observer


def counted(x, bins=2048):
    histogram = Histogram(bins)
    histogram.add(x, x.min(), x.max())
    return histogram


def error(x, params):
    return float(np.square(x - oc.fake_quantize(x, params), dtype=np.float64).mean())


def reach(observer):
    """(lo, hi) that the integers cover."""
    (scale, zero_point), q = observer.calculate_qparams(), (observer.quant_min, observer.quant_max)
    return tuple(float((i - zero_point) * scale) for i in q)


# the histogram


@pytest.mark.parametrize("bins", [512, 2048])
@pytest.mark.parametrize("scale", [1e-36, 1e-3, 1.0, 1e6, 1e37])
def test_histogram_counts_as_numpy(bins, scale):
    with np.errstate(all="ignore"):
        x = normal(150_000) * F(scale)
    counts, _ = np.histogram(x.astype(np.float64), bins=bins, range=(float(x.min()), float(x.max())))
    histogram = counted(x, bins)
    assert histogram.counts.sum() == x.size
    # Rounding takes a value near an edge to the other side, and no further.
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(counts)).max() <= 10


@pytest.mark.parametrize("scale", [1e-36, 1.0, 1e36])
def test_widening_keeps_the_total_and_moves_counts_by_a_bin(scale):
    with np.errstate(all="ignore"):
        parts = [normal(20_000, seed) * F(scale * (1 + seed)) for seed in range(4)]
    histogram = counted(parts[0])
    for x in parts[1:]:
        histogram.add(x, x.min(), x.max())
    everything = np.concatenate(parts)
    assert histogram.range == (everything.min(), everything.max())
    np.testing.assert_allclose(histogram.counts.sum(dtype=np.float64), everything.size, rtol=1e-6)
    exact = np.cumsum(counted(everything).counts)
    cumulative = np.cumsum(histogram.counts, dtype=np.float64)
    assert (cumulative[2:] >= exact[:-2] - 1).all()
    assert (cumulative[:-2] <= exact[2:] + 1).all()


def test_merged_histograms_hold_both():
    a, b = counted(normal(10_000)), counted(normal(10_000, 1) * F(3))
    both = counted(np.concatenate((normal(10_000), normal(10_000, 1) * F(3))))
    a.merge(b)
    assert a.range == both.range
    cumulative, exact = np.cumsum(a.counts), np.cumsum(both.counts)
    assert (cumulative[1:] >= exact[:-1] - 1).all()
    assert (cumulative[:-1] <= exact[1:] + 1).all()


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-40, 3e38])
def test_one_value_then_more(value):
    x = np.full(7, value, F)
    histogram = counted(x)
    assert histogram.range == (F(value), F(value))
    histogram.add(x, x[0], x[0])
    assert histogram.counts.sum() == 14
    wide = F([-1, 4])
    histogram.add(wide, wide.min(), wide.max())
    assert histogram.counts.sum() == 16
    held = int(np.argmax(histogram.counts))
    assert histogram.edges[held] <= F(value) <= histogram.edges[held + 1]


# all four


@every
@pytest.mark.parametrize("scheme", ["per_tensor_affine", "per_tensor_symmetric"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4"])
def test_heavy_tails_are_cut_and_the_error_with_them(cls, scheme, dtype):
    x = np.random.default_rng(3).standard_t(3, 50_000).astype(F)
    options = {"qscheme": scheme, "dtype": dtype}
    chosen, whole = (fed(c(**options), x).calculate_qparams() for c in (cls, oc.MinMaxObserver))
    assert chosen.scale <= whole.scale
    if cls in (oc.PercentileObserver, oc.EntropyObserver, oc.MSEObserver):
        assert chosen.scale < whole.scale * 0.9
    if cls is oc.MSEObserver or (cls is oc.HistogramObserver and scheme == "per_tensor_affine"):
        assert error(x, chosen) < error(x, whole)


@every
@pytest.mark.parametrize("scheme", ["per_tensor_affine", "per_tensor_symmetric"])
def test_even_data_keep_nearly_their_whole_range(cls, scheme):
    x = np.random.default_rng(0).uniform(-2, 6, 200_000).astype(F)
    lo, hi = reach(fed(cls(qscheme=scheme), x))
    assert 5.7 < hi <= 6.03
    assert -6.1 <= lo < -1.9


@every
def test_after_relu_the_range_starts_at_zero(cls):
    x = np.maximum(normal(100_000), 0)
    params = fed(cls(), x).calculate_qparams()
    assert params.zero_point == 0
    assert 2.5 < params.scale * 255 <= x.max() * 1.001


@every
@pytest.mark.parametrize("offset", [-100.0, 100.0])
def test_data_far_from_zero_are_covered(cls, offset):
    x = normal(20_000) * F(0.5) + F(offset)
    params = fed(cls(), x).calculate_qparams()
    assert np.abs(x - oc.fake_quantize(x, params)).max() < 2
    assert params.zero_point == (255 if offset < 0 else 0)


@every
def test_merged_ranges_are_near_those_of_one_stream(cls):
    parts = [normal(50_000, seed) * F(1 + seed / 4) for seed in range(4)]
    whole = fed(cls(), *parts)
    merged = fed(cls(), *parts[:2]).merge(fed(cls(), *parts[2:]))
    lo, hi = merged.histogram.range
    assert (lo, hi) == whole.histogram.range
    # HistogramObserver's search is greedy and may stop a few moves sooner.
    np.testing.assert_allclose(
        reach(merged), reach(whole), atol=(hi - lo) * (0.1 if cls is oc.HistogramObserver else 0.02)
    )


@every
@pytest.mark.parametrize("bins", [100, 511, 1 << 21])
def test_bins_out_of_limits_are_refused(cls, bins):
    with pytest.raises(ValueError, match=rf"bins must lie in \[512, 1048576\] for quint8, got {bins}"):
        cls(bins=bins)


@every
@pytest.mark.parametrize("value", [1e-44, 1e-30, 1e37])
def test_extreme_magnitudes_do_not_overflow(cls, value):
    with np.errstate(all="ignore"):
        x = normal(5000) * F(value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"{cls.__name__} has seen only zeros")
        scale, _ = fed(cls(eps=0.0), x).calculate_qparams()
    assert np.isfinite(scale)
    if value > 1e-40:
        assert 0.2 < scale * 255 / np.ptp(x) <= 1.01


# each by itself


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.99, 100.0])
def test_percentile_is_the_quantile_to_one_bin(percentile):
    x = np.random.default_rng(1).gamma(2.0, size=100_000).astype(F) - F(1)
    width, out = (x.max() - x.min()) / 8192, (100 - percentile) / 2
    lo, hi = fed(oc.PercentileObserver(percentile=percentile), x)._range()
    assert abs(lo - np.percentile(x, out)) <= width
    assert abs(hi - np.percentile(x, 100 - out)) <= width
    lo, hi = fed(oc.PercentileObserver(percentile=percentile, qscheme="per_tensor_symmetric"), x)._range()
    assert lo == -hi
    assert abs(hi - np.percentile(np.abs(x), percentile)) <= width


def test_percentile_of_hundred_is_min_max():
    x = normal(1000)
    expected = fed(oc.MinMaxObserver(), x).calculate_qparams()
    assert fed(oc.PercentileObserver(percentile=100), x).calculate_qparams() == expected


@pytest.mark.parametrize("percentile", [0, -1.0, 100.5, np.nan])
def test_percentile_out_of_limits_is_refused(percentile):
    with pytest.raises(ValueError, match="percentile must"):
        oc.PercentileObserver(percentile=percentile)


@pytest.mark.parametrize("dtype", ["int4", "int8"])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy", "exponential"])
def test_mse_is_the_best_of_its_grid_on_the_data(dtype, draw):
    x = np.clip(getattr(np.random.default_rng(0), draw)(20_000), -200, 200).astype(F)
    symmetric = fed(oc.MSEObserver(dtype=dtype, qscheme="per_tensor_symmetric"), x).calculate_qparams()
    amax = np.abs(x).max()
    steps = (symmetric.qmax - symmetric.qmin) / 2
    grid = [oc.QParams(amax * f / steps, 0, dtype) for f in np.arange(1, 101) / 100]
    assert error(x, symmetric) <= min(error(x, p) for p in grid) * 1.01
    affine = fed(oc.MSEObserver(dtype=dtype), x).calculate_qparams()
    assert error(x, affine) <= error(x, fed(oc.MinMaxObserver(dtype=dtype), x).calculate_qparams()) * 1.01


@pytest.mark.parametrize("sign", [1, -1])
def test_mse_shrinks_each_end_by_itself(sign):
    x = np.append(np.random.default_rng(0).uniform(0, 10, 20_000), -40).astype(F) * F(sign)
    near, far = sorted(np.abs(reach(fed(oc.MSEObserver(dtype="int4"), x))))
    assert near < 4
    assert 8 < far < 11


def divergences(x, amax, bins, levels):
    """KL(P || Q) of each threshold, with loops, on the symmetric histogram of x."""
    counts = np.histogram(x, bins, (-amax, amax))[0].astype(float)
    zero = bins // 2
    counts[zero] = min(counts[zero], max(counts[zero - 1], counts[zero + 1]))
    found = {}
    for n in range(bins // 2, 0, -bins // 256):
        start, stop = max(0, zero - n), min(bins, zero + n + 1)
        size = stop - start
        if size < levels or counts[start:stop].sum() < 0.9 * counts.sum():
            break
        p, q = counts[start:stop].copy(), np.zeros(size)
        p[0] += counts[:start].sum()
        p[-1] += counts[stop:].sum()
        for level in range(levels):
            group = slice(level * size // levels, (level + 1) * size // levels)
            filled = counts[start:stop][group] > 0
            if filled.any():
                q[group][filled] = counts[start:stop][group].sum() / filled.sum()
        p, q = (0.9999 * a / a.sum() + 1e-4 / size for a in (p, q))
        found[stop] = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    return found


def test_entropy_is_the_threshold_of_least_divergence():
    x = np.append(normal(30_000), F(12))
    observer = fed(oc.EntropyObserver(dtype="int4", qscheme="per_tensor_symmetric", bins=512), x)
    found = divergences(np.append(x, []), 12.0, 512, 16)
    best = min(found, key=found.get)
    assert 256 + 16 < best < 512
    _, hi = observer._range()
    assert abs(hi - (best * 24 / 512 - 12)) <= 2 * 24 / 512 * 2  # neighbours in the grid differ by little


def test_entropy_leaves_out_an_outlier():
    x = np.append(normal(100_000), F(40))
    _, hi = reach(fed(oc.EntropyObserver(dtype="int8", qscheme="per_tensor_symmetric"), x))
    assert 2.5 < hi < 10

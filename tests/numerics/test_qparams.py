"""QType, as_qtype and QParams: what they hold, refuse, compare and copy."""

import copy
import dataclasses
import itertools
import pickle

import numpy as np
import pytest

import octavo as oc

F = np.float32
MAX = np.finfo(F).max
QTYPES = {"int8": oc.qint8, "uint8": oc.quint8, "int4": oc.qint4, "uint4": oc.quint4}


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

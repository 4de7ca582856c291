"""QConfig, and the precedence of its mapping: name > pattern > type > default."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest

import octavo as oc


class Dense:
    pass


class Wide(Dense):
    pass


def config(number):
    """Configs that can be told apart."""
    return oc.QConfig(activation=oc.MinMaxObserver.with_args(eps=float(number)))


NAME, PATTERN, TYPE, DEFAULT = (config(i) for i in range(1, 5))


# QConfig


def test_default_is_that_of_the_reference_model():
    activation, weight = oc.default_qconfig.activation(), oc.default_qconfig.weight()
    assert type(activation) is oc.MinMaxObserver
    assert (activation.dtype, activation.quant_min, activation.quant_max) == (oc.quint8, 0, 255)
    assert activation.qscheme == oc.per_tensor_affine
    assert type(weight) is oc.PerChannelMinMaxObserver
    assert (weight.dtype, weight.quant_min, weight.quant_max, weight.ch_axis) == (oc.qint8, -128, 127, 0)
    assert weight.qscheme == oc.per_channel_symmetric
    assert oc.QConfig() == oc.default_qconfig


def test_qconfig_takes_classes_partials_and_functions():
    symmetric = {"dtype": "int8", "qscheme": "per_tensor_symmetric"}
    qconfig = oc.QConfig(activation=oc.HistogramObserver, weight=lambda: oc.MinMaxObserver(**symmetric))
    assert type(qconfig.activation()) is oc.HistogramObserver
    assert qconfig.weight().dtype is oc.qint8
    assert qconfig.weight() is not qconfig.weight()


def test_qconfig_is_frozen_hashable_and_can_be_copied():
    qconfig = config(1)
    with pytest.raises(AttributeError):
        qconfig.weight = oc.MinMaxObserver
    assert pickle.loads(pickle.dumps(qconfig)) == copy.deepcopy(qconfig) == qconfig != config(2)
    assert hash(config(1)) == hash(qconfig)


@pytest.mark.parametrize("field", ["activation", "weight"])
@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (oc.MinMaxObserver(), TypeError, "got an observer: every layer needs its own; pass MinMaxObserver or"),
        ("MinMaxObserver", TypeError, "got 'MinMaxObserver'"),
        (None, TypeError, "got None"),
        (dict, TypeError, "which makes dict"),
        (lambda x: x, TypeError, "calling it failed"),
        (oc.MinMaxObserver.with_args(dtype="int5"), ValueError, "calling it failed: dtype must be"),
        (oc.MinMaxObserver.with_args(colour="red"), TypeError, "calling it failed: .*colour"),
    ],
    ids=["observer", "string", "none", "dict", "arguments", "bad-value", "unknown-option"],
)
def test_qconfig_refuses_what_makes_no_observer(field, value, error, match):
    with pytest.raises(error, match=f"{field} must be an observer class, or with_args of one.*{match}"):
        oc.QConfig(**{field: value})


@pytest.mark.parametrize("field", ["activation", "weight"])
@pytest.mark.parametrize(
    ("factory", "error"),
    [(lambda: json.loads("{"), json.JSONDecodeError), (lambda: b"\xff".decode(), UnicodeDecodeError)],
    ids=["json", "bytes"],
)
def test_qconfig_keeps_the_class_of_other_errors(field, factory, error):
    with pytest.raises(error) as caught:
        oc.QConfig(**{field: factory})
    expected = f"octavo: {field} must be an observer class, or with_args of one; calling it failed"
    assert caught.value.__notes__ == [expected]


@pytest.mark.parametrize(
    ("field", "factory", "match"),
    [
        (
            "weight",
            oc.MinMaxObserver,
            "weight must be .*signed.*MinMaxObserver with quint8, per_tensor_affine",
        ),
        ("weight", oc.MinMaxObserver.with_args(dtype="qint8"), r'with_args\(dtype="qint8", qscheme="per_tensor_symm'),
        ("weight", oc.PerChannelMinMaxObserver, 'use PerChannelMinMaxObserver.*qscheme="per_channel_symmetric"'),
        (
            "weight",
            oc.PerChannelMinMaxObserver.with_args(dtype="qint8", qscheme="per_channel_symmetric", ch_axis=1),
            "got PerChannelMinMaxObserver with ch_axis=1",
        ),
        ("weight", oc.FakeQuantize.with_args(dtype="quint8"), "got MovingAverageMinMaxObserver with quint8"),
        (
            "activation",
            oc.PerChannelMinMaxObserver,
            r"one scale for the whole tensor.*\(ch_axis=0\); choose",
        ),
        (
            "activation",
            oc.FakeQuantize.with_args(observer=oc.PerChannelMinMaxObserver),
            "got PerChannelMinMaxObserver with one a channel",
        ),
    ],
)
def test_qconfig_refuses_at_once_what_kernels_do_not_multiply(field, factory, match):
    with pytest.raises(TypeError, match=match):
        oc.QConfig(**{field: factory})


# precedence


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=4)), ids=str)
def test_name_before_pattern_before_type_before_default(present):
    entries = [("a.fc", NAME), ("a.*", PATTERN), (Dense, TYPE), ("", DEFAULT)]
    chosen = [entry for entry, there in zip(entries, present, strict=True) if there]
    expected = chosen[0][1] if chosen else None
    for order in itertools.permutations(chosen):
        assert oc.as_mapping(dict(order)).resolve("a.fc", Dense) == expected


@pytest.mark.parametrize("level", range(4))
def test_none_at_any_level_leaves_the_layer_in_float(level):
    entries = [("a.fc", NAME), ("a.*", PATTERN), (Dense, TYPE), ("", DEFAULT)]
    entries = [(key, None if i == level else value) for i, (key, value) in enumerate(entries)][level:]
    assert oc.as_mapping(dict(entries)).resolve("a.fc", Dense) is None


@pytest.mark.parametrize(
    ("path", "name", "match"),
    [
        ("blocks[3].fc1", "blocks[3].fc1", True),
        ("blocks[3].fc1", "blocks.3.fc1", True),
        ("heads['out']", "heads.out", True),
        ("heads['out']", 'heads["out"]', True),
        ("['a'].layers[0]", "a.layers.0", True),
        ("[0]", "[0]", True),
        ("blocks[3].fc1", "blocks[3]", True),
        ("blocks[3].fc1", "blocks", True),
        ("blocks[30].fc1", "blocks[3]", False),
        ("blocks[3].fc12", "blocks[3].fc1", False),
        ("blocks[3].fc1", "fc1", False),
        ("blocks3", "blocks[3]", False),
    ],
)
def test_names_stand_for_themselves_and_what_is_inside(path, name, match):
    assert oc.as_mapping({name: NAME}).resolve(path, Dense) == (NAME if match else None)


def test_longest_name_counts_whatever_the_order():
    entries = [("a", NAME), ("a.b", None), ("a.b.c", PATTERN)]
    for order in itertools.permutations(entries):
        mapping = oc.as_mapping(dict(order))
        assert mapping.resolve("a.x", Dense) == NAME
        assert mapping.resolve("a.b.x", Dense) is None
        assert mapping.resolve("a.b.c", Dense) == PATTERN


@pytest.mark.parametrize(
    ("path", "pattern", "match"),
    [
        ("blocks[3].fc1", "blocks.*.fc1", True),
        ("blocks[3].fc1", "blocks[*].fc1", True),
        ("blocks[3].fc1", "*.fc1", True),
        ("blocks[3].fc1", "blocks[?].fc1", True),
        ("blocks[12].fc1", "blocks[?].fc1", False),
        ("blocks[3].attn.fc1", "blocks.*.fc1", True),
        ("blocks[3].fc1", "*fc", False),
        ("blocks[3].fc1", "block*", True),
        ("blocks[3].fc1", "blocks[3].fc?", True),
        ("blocks3fc1", "blocks.3.*", False),
        ("a+b", "a+*", True),
        ("aab", "a+*", False),
        ("", "*", True),
    ],
)
def test_patterns_match_whole_paths(path, pattern, match):
    assert oc.as_mapping({pattern: PATTERN}).resolve(path, Dense) == (PATTERN if match else None)


def test_first_pattern_counts():
    assert oc.as_mapping({"a.*": PATTERN, "*.b": None}).resolve("a.b", Dense) == PATTERN
    assert oc.as_mapping({"*.b": None, "a.*": PATTERN}).resolve("a.b", Dense) is None


def test_types_are_matched_exactly():
    mapping = oc.as_mapping({Dense: TYPE})
    assert mapping.resolve("fc", Dense) == TYPE
    assert mapping.resolve("fc", Wide) is None


def test_setting_again_replaces_under_every_spelling():
    mapping = oc.QConfigMapping().set_module_name("a[0]", NAME).set_module_name("a.0", None)
    assert mapping.resolve("a[0]", Dense) is None
    assert mapping.set_global(DEFAULT).set_global(None).resolve("b", Dense) is None
    assert mapping.set_object_type(Dense, TYPE).set_object_type(Dense, PATTERN).resolve("b", Dense) == PATTERN


# building, listing, errors


def test_chained_setters_build_what_a_dict_builds():
    chained = oc.QConfigMapping().set_global(DEFAULT).set_object_type(Dense, TYPE).set_module_name("a.fc", NAME)
    mapping = chained.set_module_name("a.*", PATTERN)
    assert mapping is chained
    assert mapping == oc.as_mapping({"": DEFAULT, Dense: TYPE, "a.fc": NAME, "a.*": PATTERN})
    assert mapping != oc.as_mapping({"": DEFAULT})
    assert oc.as_mapping({"*a": None, "a*": None}) != oc.as_mapping({"a*": None, "*a": None})
    assert pickle.loads(pickle.dumps(mapping)) == copy.deepcopy(mapping) == mapping
    for text in ("QConfigMapping({'': QConfig(", "'a.fc': ", "'a.*': ", "Dense: "):
        assert text in repr(mapping)


def test_as_mapping_takes_a_qconfig_and_keeps_a_mapping():
    mapping = oc.as_mapping(NAME)
    assert mapping.resolve("anything", Dense) == mapping.resolve("", Wide) == NAME
    assert oc.as_mapping(mapping) is mapping


def test_unused_lists_what_matches_no_layer():
    entries = {"": DEFAULT, "a[0]": NAME, "b": None, "nope": None, "a.?": None, "c*": None, Dense: TYPE, Wide: TYPE}
    mapping = oc.as_mapping(entries)
    assert mapping.unused([("a[0]", Dense), ("b.fc", Dense)]) == ["nope", "c*", "Wide"]
    assert mapping.unused([]) == ["a[0]", "b", "nope", "a.?", "c*", "Dense", "Wide"]
    assert oc.as_mapping(DEFAULT).unused([]) == []


@pytest.mark.parametrize(
    ("qconfig", "match"),
    [
        (None, "qconfig must be a QConfig, a QConfigMapping or a dict"),
        (oc.MinMaxObserver, "qconfig must be a QConfig"),
        ([("a", NAME)], "qconfig must be a QConfig"),
        ({"a": oc.MinMaxObserver}, "qconfig of 'a' must be a QConfig, or None to leave it in float"),
        ({"": "int8"}, "qconfig of the default must be"),
        ({Dense: 1}, "qconfig of Dense must be"),
        ({3: NAME}, "keys of qconfig must be names, patterns, layer classes or ''"),
        ({np.float32(3): NAME}, "keys of qconfig must be"),
    ],
    ids=str,
)
def test_as_mapping_refuses_other_kinds(qconfig, match):
    with pytest.raises(TypeError, match=match):
        oc.as_mapping(qconfig)


def test_setters_refuse_bad_keys():
    with pytest.raises(ValueError, match="name must not be empty; set_global"):
        oc.QConfigMapping().set_module_name("", NAME)
    with pytest.raises(TypeError, match="name must be a string"):
        oc.QConfigMapping().set_module_name(Dense, NAME)
    with pytest.raises(TypeError, match="object_type must be a layer class"):
        oc.QConfigMapping().set_object_type("Dense", NAME)

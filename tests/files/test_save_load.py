"""save and load: what comes back is what was there, to the bit, wherever it was."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import octavo as oc
from models import Dense, FrozenModel, Model, Pair, SlottedModel, layer_class, random_array
from octavo._models.walk import walk
from pickle_fixtures import contents
from reference import random_layer

F = np.float32


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and contents(a) == contents(b)


def empty_dense(*args: Any, **kwargs: Any) -> Dense:
    """A Dense whose arrays are still to come."""
    layer = Dense.__new__(Dense)
    layer.weight = layer.bias = None
    return layer


HOLDERS = {
    "attribute": lambda make: Model(fc=make()),
    "slot": lambda make: SlottedModel(make()),
    "frozen dataclass": lambda make: FrozenModel(make()),
    "dict": lambda make: {"fc": make(), 3: make(seed=1), None: make(seed=2)},
    "list": lambda make: [make(), [make(seed=1)]],
    "tuple": lambda make: Model(blocks=(make(), (make(seed=1), 5))),
    "tuple itself": lambda make: (make(), 7),
    "namedtuple": lambda make: Model(pair=Pair(make(), [make(seed=1)])),
    "layer itself": lambda make: make(),
    "nested": lambda make: Model(blocks=[Model(fc=make(seed=i), norm={"x": (make(seed=9 + i),)}) for i in range(3)]),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_skeleton_without_weights_becomes_the_model(holder: str, tmp_path: Path) -> None:
    quantized = oc.quantize_dynamic(HOLDERS[holder](Dense), {Dense})
    oc.save(quantized, tmp_path / "x")
    skeleton = HOLDERS[holder](empty_dense)
    filled = oc.load(tmp_path / "x", skeleton)
    assert filled is skeleton or isinstance(skeleton, (Dense, tuple))
    expected = [(path, v) for path, v in walk(quantized) if type(v) is oc.QuantLinear]
    found = [(path, v) for path, v in walk(filled) if type(v) is oc.QuantLinear]
    assert expected
    assert [path for path, _ in found] == [path for path, _ in expected]
    assert all(same(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))
    assert not [v for _, v in walk(filled) if type(v) is Dense]


@pytest.mark.parametrize("holder", HOLDERS)
def test_float_model_and_quantized_model_serve_as_skeletons(holder: str, tmp_path: Path) -> None:
    quantized = oc.quantize_dynamic(HOLDERS[holder](Dense), {Dense})
    oc.save(quantized, tmp_path / "x")
    for skeleton in (HOLDERS[holder](lambda seed=0: Dense(seed=seed + 50)), copy.deepcopy(quantized)):
        filled = oc.load(tmp_path / "x", skeleton)
        expected, found = ([(p, v) for p, v in walk(m) if type(v) is oc.QuantLinear] for m in (quantized, filled))
        assert all(p == q and same(a, b) for (p, a), (q, b) in zip(expected, found, strict=True))


def test_names_of_load_lead_to_the_model(tmp_path: Path) -> None:
    shared = random_layer(4, 4)
    model = Model(blocks=[Model(fc=shared), (shared, np.arange(3))], heads={"out": random_layer(4, 2), 7: np.ones(2)})
    oc.save(model, tmp_path / "x")
    found = oc.load(tmp_path / "x")
    assert list(found) == ["blocks.0.fc", "heads.out", "blocks.1.1", "heads.7", "blocks.1.0"]
    assert found["blocks.0.fc"] is found["blocks.1.0"]
    assert same(found["heads.out"], model.heads["out"])
    assert same(found["blocks.1.1"], np.arange(3))
    assert same(found["heads.7"], np.ones(2))


def test_dict_that_was_loaded_saves_to_the_same_names(tmp_path: Path) -> None:
    oc.save(Model(blocks=[Model(fc=random_layer(4, 4))], table=np.ones(2)), tmp_path / "x")
    found = oc.load(tmp_path / "x")
    oc.save(found, tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


LAYERS = {
    "plain": lambda: random_layer(24, 10),
    "no bias": lambda: oc.QuantLinear(random_array(3, 5)),
    "relu, call": lambda: oc.QuantLinear(random_array(3, 5), relu=True, call="predict"),
    "asymmetric": lambda: oc.QuantLinear(random_array(3, 5), random_array(3), activation="asymmetric"),
    "no outputs": lambda: oc.QuantLinear(np.zeros((0, 5))),
    "no inputs": lambda: oc.QuantLinear(np.zeros((5, 0))),
    "-128": lambda: oc.QuantLinear.from_quantized(np.full((2, 3), -128, np.int8), F([2**-126, 3e38])),
    "int4": lambda: four_bits(7, 96),
    "int4, groups that do not divide K": lambda: four_bits(3, 45, group_size=32, relu=True),
    "int4, zero points, float16": lambda: four_bits(
        3, 70, group_size=64, symmetric=False, scale_dtype="float16", activation="asymmetric", call="predict"
    ),
    "int4, one group for more than there is": lambda: four_bits(3, 5, group_size=128, bias=None),
    "int4, no inputs": lambda: four_bits(3, 0),
    "int4, no outputs": lambda: four_bits(0, 3, group_size=32),
    "static": lambda: static(output=oc.QParams(0.3, -7, "int8"), relu=True, folded=True, name="model.fc"),
    "static, float32": lambda: static(),
    "Quantize": lambda: oc.Quantize(oc.QParams(0.1, 3, "uint8", qmin=1, qmax=200), as_float=True, name="ä"),
    "QuantizedArray": lambda: oc.QuantizedArray(np.zeros((2, 3), np.uint8), oc.QParams([1, 2], 0, "uint8", axis=0)),
    "QParams": lambda: oc.QParams(np.ones((2, 3), F), 1, "int4", axis=1, group_size=4),
}


def four_bits(n: int, k: int, **options: Any) -> oc.QuantLinear:
    return oc.QuantLinear(random_array(n, k), options.pop("bias", random_array(n)), dtype="int4", **options)


def static(**options: Any) -> oc.StaticQuantLinear:
    q = np.random.default_rng(0).integers(-128, 128, (3, 5), np.int8)
    return oc.StaticQuantLinear(q, random_array(3) ** 2, random_array(3), input=oc.QParams(0.1, 9, "uint8"), **options)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    layer = LAYERS[name]()
    oc.save([layer], tmp_path / "x")
    found = oc.load(tmp_path / "x")["0"]
    if name == "QuantizedArray":
        assert found.qparams == layer.qparams
        assert same(found.int_repr(), layer.int_repr())
    elif name == "Quantize":
        assert vars(found) == vars(layer)
    else:
        assert same(found, layer)
    if isinstance(layer, oc.QuantLinear):
        x = random_array(4, layer.in_features)
        assert np.maximum(found(x), 0).tobytes() == np.maximum(layer(x), 0).tobytes()


def test_stubs_come_back(tmp_path: Path) -> None:
    oc.save([oc.QuantStub(), oc.DeQuantStub()], tmp_path / "x")
    assert [type(v) for v in oc.load(tmp_path / "x").values()] == [oc.QuantStub, oc.DeQuantStub]


def test_static_model_fills_the_float_model(tmp_path: Path) -> None:
    def build(seed: int) -> oc.nn.Sequential:
        rng = np.random.default_rng(seed)
        layers = oc.nn.Linear.init(8, 6, rng=rng), oc.nn.ReLU(), oc.nn.Linear.init(6, 2, rng=rng)
        return oc.nn.Sequential(oc.QuantStub(), *layers, oc.DeQuantStub())

    x = random_array(50, 8)
    prepared = oc.prepare(build(0), oc.default_qconfig, layers={oc.nn.Linear})
    oc.calibrate(prepared, [x])
    quantized = oc.convert(prepared)
    oc.save(quantized, tmp_path / "x")
    filled = oc.load(tmp_path / "x", build(1))
    assert filled(x).tobytes() == quantized(x).tobytes()
    assert repr(filled) == repr(quantized)


ARRAYS = {
    **{str(np.dtype(d)): np.arange(6).reshape(2, 3).astype(d) for d in "?bBhHiIlLefdF"},
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), F),
    "Fortran": np.asfortranarray(random_array(3, 4)),
    "strided": random_array(6, 8)[::2, ::-3],
    "big-endian": np.arange(4, dtype=">i4"),
    "NaN and -0": np.array([np.nan, -0.0, np.inf]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    a = ARRAYS[name]
    oc.save({"a": a}, tmp_path / "x")
    found = oc.load(tmp_path / "x")["a"]
    assert found.dtype == a.dtype.newbyteorder("=")
    assert found.shape == a.shape
    assert found.tobytes() == a.astype(found.dtype).tobytes()
    assert found.flags.writeable
    assert found.flags.owndata


def test_memory_mapped_arrays_are_arrays(tmp_path: Path) -> None:
    a = np.memmap(tmp_path / "raw", F, "w+", shape=(3,))
    oc.save([a], tmp_path / "x")
    assert type(oc.load(tmp_path / "x")["0"]) is np.ndarray


# Sharing


def test_shared_layers_holders_and_arrays_stay_shared(tmp_path: Path) -> None:
    def build(layer: Any, array: Any) -> Model:
        block = Model(fc=layer, arrays=[array])
        return Model(first=block, blocks=[block, {"b": block}], fc=layer, pair=(layer, array), hook=layer.__call__)

    layer, array = random_layer(4, 4), random_array(3)
    oc.save(build(layer, array), tmp_path / "x")
    assert len(load_file(tmp_path / "x")) == 4  # stored once: weight, scale and bias of the layer; the array
    skeleton = build(Dense(4, 4), np.zeros(3, F))
    filled = oc.load(tmp_path / "x", skeleton)
    fc = filled.first.fc
    assert same(fc, layer)
    assert filled.fc is fc
    assert filled.pair[0] is fc
    assert filled.hook.__self__ is fc
    assert filled.blocks[0] is filled.first
    assert filled.blocks[1]["b"] is filled.first
    assert same(filled.pair[1], array)
    assert filled.first.arrays[0] is filled.pair[1]


def test_holder_shared_in_the_file_alone_fills_both_of_the_model(tmp_path: Path) -> None:
    block = Model(fc=random_layer(4, 4))
    oc.save([block, block], tmp_path / "x")
    filled = oc.load(tmp_path / "x", [Model(fc=None), Model(fc=None)])
    assert filled[0].fc is filled[1].fc
    assert same(filled[0].fc, block.fc)


def test_holder_shared_in_the_model_alone_finds_either_name(tmp_path: Path) -> None:
    """As in files that know no sharing: torch's hold one name of a tied layer."""
    block = Model(fc=None)
    oc.save({"b": Model(fc=random_layer(4, 4))}, tmp_path / "x")
    filled = oc.load(tmp_path / "x", {"a": block, "b": block})
    assert type(filled["a"].fc) is oc.QuantLinear


def test_holder_shared_in_the_model_cannot_hold_two_layers(tmp_path: Path) -> None:
    block = Model(fc=None)
    oc.save([Model(fc=random_layer(4, 4)), Model(fc=random_layer(4, 4, seed=1))], tmp_path / "x")
    with pytest.raises(ValueError, match=r"no place for: 1\.fc"):
        oc.load(tmp_path / "x", [block, block])
    assert block.fc is None


def test_arrays_shared_in_the_skeleton_alone_part(tmp_path: Path) -> None:
    oc.save({"a": np.ones(2), "b": np.zeros(2)}, tmp_path / "x")
    blank, pair = np.empty(2), (None, None)
    assert oc.load(tmp_path / "x", {"a": blank, "b": blank})["a"].tolist() == [1, 1]
    oc.save([(np.ones(2), np.zeros(1)), (np.ones(3), np.ones(4))], tmp_path / "y")
    filled = oc.load(tmp_path / "y", [pair, pair])
    assert [a.size for held in filled for a in held] == [2, 1, 3, 4]


def test_place_of_an_array_that_becomes_two_is_missing(tmp_path: Path) -> None:
    oc.save({"a": np.ones(2), "b": np.zeros(2)}, tmp_path / "x")
    blank = np.empty(2)
    with pytest.raises(ValueError, match=r"missing from the file: c$"):
        oc.load(tmp_path / "x", {"c": blank, "a": blank, "b": blank})


def test_layers_in_sets_are_known_by_their_other_names(tmp_path: Path) -> None:
    def build(layer: Any) -> Model:
        return Model(all={layer}, fc=layer)

    oc.save(build(random_layer(4, 4)), tmp_path / "x")
    filled = oc.load(tmp_path / "x", build(Dense(4, 4)))
    assert filled.all == {filled.fc}
    assert type(filled.fc) is oc.QuantLinear


def test_keys_with_dots_are_no_cycles(tmp_path: Path) -> None:
    layer = random_layer(4, 4)
    oc.save({"a": layer, "a.b": layer}, tmp_path / "x")
    filled = oc.load(tmp_path / "x", {"a": None, "a.b": None})
    assert filled["a"] is filled["a.b"]
    assert same(filled["a.b"], layer)


def test_cycles_are_fine(tmp_path: Path) -> None:
    def build(layer: Any) -> Model:
        model = Model(fc=layer, children=[Model(fc=layer)])
        model.children[0].parent = model
        model.itself = model
        return model

    oc.save(build(random_layer(4, 4)), tmp_path / "x")
    filled = oc.load(tmp_path / "x", build(None))
    assert filled.children[0].fc is filled.fc
    assert filled.itself is filled


@pytest.mark.slow
def test_deep_models_are_fine(tmp_path: Path) -> None:
    def build(layer: Any) -> list[Any]:
        model = [layer]
        for _ in range(3000):
            model = [model]
        return model

    oc.save(build(random_layer(2, 2)), tmp_path / "x")
    model = oc.load(tmp_path / "x", build(None))
    while isinstance(model, list):
        model = model[0]
    assert type(model) is oc.QuantLinear


# What does not match


@dataclass
class Norm:
    gamma: Any
    beta: Any = None


def test_missing_and_extra_names_are_listed_and_nothing_changes(tmp_path: Path) -> None:
    model = Model(fc=random_layer(4, 4), old=random_layer(4, 4), a=np.ones(2), norm=Norm(np.ones(3)))
    oc.save(model, tmp_path / "x")
    skeleton = Model(fc=Dense(4, 4), new=Dense(4, 4), empty=empty_dense(), b=np.ones(2), norm=Norm(None))
    skeleton.norm2 = Norm(None)
    before = dict(vars(skeleton))
    with pytest.raises(ValueError, match="does not match the model, which was not changed") as caught:
        oc.load(tmp_path / "x", skeleton)
    message = str(caught.value)
    assert "missing from the file: b, empty, new.bias, new.weight, norm2;" in message
    assert message.endswith("no place for: old, a")
    assert vars(skeleton) == before
    assert skeleton.norm.gamma is None


def test_not_strict_fills_what_matches_and_warns_of_the_rest(tmp_path: Path) -> None:
    oc.save(Model(fc=random_layer(4, 4), old=np.ones(2)), tmp_path / "x")
    with pytest.warns(UserWarning, match="missing from the file: b; .*no place for: old") as caught:
        filled = oc.load(tmp_path / "x", Model(fc=None, b=np.ones(1)), strict=False)
    assert caught[0].filename == __file__
    assert type(filled.fc) is oc.QuantLinear


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Dense(5, 3), r"fc: the model has weights of shape \(3, 5\), the file a QuantLinear 4 -> 3"),
        (random_layer(4, 2), "fc: the model has a QuantLinear 4 -> 2, the file a QuantLinear 4 -> 3"),
        ([], "fc: the model has a list, the file a QuantLinear"),
        (np.zeros((3, 3)), r"fc: the model has an array of shape \(3, 3\), the file a QuantLinear 4 -> 3"),
    ],
    ids=["float layer", "quantized layer", "list", "array"],
)
def test_layer_that_does_not_fit_its_place_is_refused(place: Any, expected: str, tmp_path: Path) -> None:
    oc.save(Model(fc=random_layer(4, 3)), tmp_path / "x")
    model = Model(fc=place)
    for strict in (True, False):
        with pytest.raises(ValueError, match=expected):
            oc.load(tmp_path / "x", model, strict=strict)
    assert model.fc is place


def test_transposed_weights_fit(tmp_path: Path) -> None:
    oc.save(Model(fc=random_layer(4, 3)), tmp_path / "x")
    layer = layer_class()(4, 3)
    layer.W[:] = layer.b[:] = 0  # placeholders
    assert type(oc.load(tmp_path / "x", Model(fc=layer)).fc) is oc.QuantLinear


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (np.zeros((2, 1)), r"a: the model has an array of shape \(2, 1\), the file an array of shape \(2,\)"),
        (Model(), "a: the model has a Model"),
    ],
    ids=["shape", "object"],
)
def test_array_that_does_not_fit_its_place_is_refused(place: Any, expected: str, tmp_path: Path) -> None:
    oc.save({"a": np.zeros(2)}, tmp_path / "x")
    with pytest.raises(ValueError, match=expected):
        oc.load(tmp_path / "x", {"a": place})


def test_place_that_cannot_be_set_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    locked = np.array([None, 5], object)
    oc.save([np.ones(1), np.array([np.ones(2), 5], object)], tmp_path / "x")
    locked.flags.writeable = False
    model = [None, locked]
    with pytest.raises(ValueError, match=r"model\.1\.0.*nothing was changed"):
        oc.load(tmp_path / "x", model)
    assert model[0] is None


# The file


def test_file_is_safetensors_with_the_documented_header(tmp_path: Path) -> None:
    layer = random_layer(24, 10)
    oc.save(Model(blocks=[layer, layer]), tmp_path / "x")
    with safe_open(tmp_path / "x", "np") as file:
        header = json.loads(file.metadata()["octavo"])
        assert (file.get_tensor("blocks.0.weight") == layer.int_repr()).all()
        assert (file.get_tensor("blocks.0.scale") == layer.scale).all()
        assert (file.get_tensor("blocks.0.bias") == layer.bias).all()
    assert header["version"] == 1
    options = {
        "dtype": "int8",
        "shape": [10, 24],
        "bias": True,
        "activation": "symmetric",
        "relu": False,
        "call": "forward",
    }
    assert header["layers"] == {"blocks.0": {"type": "QuantLinear", **options}}
    assert header["aliases"] == {"blocks.1": "blocks.0"}


def test_arrays_named_like_tensors_that_a_layer_might_have_stay_arrays(tmp_path: Path) -> None:
    model = {
        "fc": oc.QuantLinear(random_array(3, 4)),
        "fc.bias": random_array(3),
        "fc.zero_point": np.zeros(3, np.int8),
    }
    oc.save(model, tmp_path / "x")
    found = oc.load(tmp_path / "x")
    assert found["fc"].bias is None
    assert all(same(found[name], model[name]) for name in model)


def test_files_of_one_model_are_equal(tmp_path: Path) -> None:
    for name in "xy":
        oc.save(Model(fc=random_layer(24, 10), table=np.ones(2)), tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


MEMORY = """
import sys, numpy as np, octavo as oc
path, size = sys.argv[1], 4096
if sys.argv[2] == "save":
    oc.save([oc.QuantLinear(np.ones((size, size), np.float32)) for _ in range(6)], path)
def peak():
    return [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0] * 1024
before = peak()
model = oc.load(path)
print(peak() - before, sum(layer.nbytes for layer in model.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to know the peak of memory")
def test_peak_of_memory_while_loading_is_near_the_packed_size(tmp_path: Path) -> None:
    def run(*arguments: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", MEMORY, *arguments], check=True, capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    run(str(tmp_path / "x"), "save")
    grown, packed = run(str(tmp_path / "x"), "load")
    assert packed > 100e6
    assert grown < 1.3 * packed  # the layers, and a sixth for the one that is being read

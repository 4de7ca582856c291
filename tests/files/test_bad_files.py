"""Files that were cut, altered or made up: a ValueError that says what is wrong, and nothing else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import octavo as oc
from format_fixtures import MODELS, file, planes_model
from reference import random_layer

F = np.float32


class Forged:
    """A file's header and tensors, to be changed and written again with right checksums."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "np") as opened:
            self.metadata = dict(opened.metadata())
        self.header = json.loads(self.metadata["octavo"])
        self.tensors = load_file(path)

    def layer(self) -> dict[str, Any]:
        return self.header["layers"]["fc"]

    def write(self) -> None:
        codes = {"f4": "F32", "f2": "F16", "i1": "I8", "u1": "U8", "i4": "I32", "f8": "F64", "b1": "BOOL"}
        for name, a in self.tensors.items() if isinstance(self.header, dict) else ():
            start = f"{codes[a.dtype.str[1:]]} {','.join(map(str, a.shape))}".encode()
            self.header["crc32"][name] = f"{zlib.crc32(a.tobytes(), zlib.crc32(start)):08x}"
        text = json.dumps(self.header)
        self.metadata |= {"octavo": text, "octavo.crc32": f"{zlib.crc32(text.encode()):08x}"}
        save_file(self.tensors, self.path, self.metadata)


@pytest.fixture
def forged(tmp_path: Path) -> Forged:
    static = oc.StaticQuantLinear(np.ones((3, 4), np.int8), 0.5, input=oc.QParams(0.5, 3, "uint8"))
    four = oc.GroupedWeight(np.ones((3, 35), np.int8), np.ones((3, 2)), np.ones((3, 2), np.int8), 32)
    model = {"fc": random_layer(4, 3), "static": static, "table": np.arange(6.0)}
    oc.save(model | {"four": oc.QuantLinear.from_grouped(four)}, tmp_path / "x")
    return Forged(tmp_path / "x")


def test_forging_nothing_gives_a_good_file(forged: Forged) -> None:
    forged.write()
    assert list(oc.load(forged.path)) == ["fc", "static", "four", "table"]


def test_int4_groups_may_have_negative_scales(forged: Forged) -> None:
    forged.tensors["four.scale"][1, 1] = -2
    forged.write()
    assert oc.load(forged.path)["four"].scale[1, 1] == -2


def scale(value: float, layer: str = "fc") -> Callable[[Forged], None]:
    return lambda f: f.tensors[f"{layer}.scale"].__setitem__(1, value)


def grouped_scale(value: float) -> Callable[[Forged], None]:
    return lambda f: f.tensors["four.scale"].__setitem__((1, 1), value)


def option(key: str, value: Any, layer: str = "fc") -> Callable[[Forged], None]:
    return lambda f: f.header["layers"][layer].__setitem__(key, value)


def tensor(name: str, value: np.ndarray) -> Callable[[Forged], None]:
    return lambda f: f.tensors.__setitem__(name, value)


def drop(forged: Forged, name: str) -> None:
    del forged.tensors[name], forged.header["crc32"][name]


def header(key: str, value: Any) -> Callable[[Forged], None]:
    return lambda f: f.header.__setitem__(key, value)


FORGERIES = {
    "scale zero": (scale(0), r"layer 'fc': scale must be finite and at least 2\*\*-126, got 0.0 at scale\[1\]"),
    "scale NaN": (scale(np.nan), "got nan"),
    "scale infinite": (scale(np.inf), "got inf"),
    "scale negative": (scale(-1), "got -1.0"),
    "scale subnormal": (scale(1e-40), "2\\*\\*-126"),
    "static: scale zero": (scale(0, "static"), "layer 'static': scale"),
    "static: input scale": (tensor("static.input.scale", np.array(np.nan, F)), "input.*scale|scale must be finite"),
    "static: scales overflow": (
        lambda f: (scale(3e38, "static")(f), tensor("static.input.scale", np.array(2, F))(f)),
        "is infinite",
    ),
    "static: zero point": (tensor("static.input.zero_point", np.array(256, np.int32)), "zero_point must lie in"),
    "static: per channel": (tensor("static.input.scale", F([1, 1])), "must be I32|scale must be"),
    "int4: scale zero": (grouped_scale(0), "layer 'four': scale must be finite and not zero"),
    "int4: scale NaN": (grouped_scale(np.nan), "layer 'four': scale must be finite and not zero"),
    "int4: scale infinite": (grouped_scale(-np.inf), "layer 'four': scale must be finite and not zero"),
    "int4: scales of another type": (option("scale_dtype", "float16", "four"), "'four.scale' must be F16"),
    "int4: scale type unknown": (option("scale_dtype", "float64", "four"), "scale_dtype must be one of"),
    "int4: group size 64": (option("group_size", 64, "four"), "'four.scale' must be F32 of shape .3, 1."),
    "int4: group size 33": (option("group_size", 33, "four"), "group_size must be a multiple of 32"),
    "int4: group size 0": (option("group_size", 0, "four"), "group_size must be at least 1 or null"),
    "int4: group size huge": (option("group_size", 2**80, "four"), "'four.scale' must be F32 of shape .3, 1."),
    "int4: group size true": (option("group_size", True, "four"), "group_size must be int or NoneType"),
    "int4: zero points not there": (lambda f: drop(f, "four.zero_point"), "'four.zero_point' is missing"),
    "int4: zero point of 8": (tensor("four.zero_point", np.full((3, 2), 8, np.int8)), "zero_point must hold -8..7"),
    "int4: padding not zero": (tensor("four.weight", np.full((3, 18), 0x11, np.uint8)), "nibbles that fill up"),
    "int4: weight not packed": (tensor("four.weight", np.ones((3, 35), np.uint8)), "must be U8 of shape .3, 18."),
    "bias NaN": (tensor("fc.bias", F([0, np.nan, 0])), "bias must be finite"),
    "bias not there": (lambda f: drop(f, "fc.bias"), "its tensor 'fc.bias' is missing"),
    "bias too short": (tensor("fc.bias", F([0, 1])), "'fc.bias' must be F32 of shape .3., got F32 of shape .2."),
    "bias float64": (tensor("fc.bias", np.zeros(3)), "must be F32"),
    "weight float": (tensor("fc.weight", np.zeros((3, 4), F)), "'fc.weight' must be I8"),
    "weight transposed": (tensor("fc.weight", np.zeros((4, 3), np.int8)), "must be I8 of shape .3, 4."),
    "weight 3-D": (tensor("fc.weight", np.zeros((3, 2, 2), np.int8)), "must be I8"),
    "too many inputs": (
        lambda f: (option("shape", [3, 131_072])(f), tensor("fc.weight", np.zeros((3, 131_072), np.int8))(f)),
        "exact up to 131071",
    ),
    "shape of the option": (option("shape", [4, 3]), "must be I8 of shape"),
    "shape negative": (option("shape", [-3, 4]), "shape must be"),
    "shape bool": (option("shape", [True, 4]), "shape must be"),
    "shape absurd": (option("shape", [2**62, 2**62]), "must be I8 of shape"),
    "type unknown": (option("type", "Conv"), "type 'Conv' is unknown"),
    "type a number": (option("type", 3), "type must be str"),
    "dtype int5": (option("dtype", "int5"), "dtype must be one of"),
    "activation unknown": (option("activation", "none"), "activation must be one of"),
    "relu a number": (option("relu", 1), "relu must be bool, got 1"),
    "call no name": (option("call", "a b"), "call must be the name of a method"),
    "matrix without axis": (option("type", "QuantMatrix"), "lacks the option 'axis'"),
    "matrix: axis 2": (lambda f: f.layer().update(type="QuantMatrix", axis=2), "axis must be one of"),
    "matrix: axis true": (lambda f: f.layer().update(type="QuantMatrix", axis=True), "axis must be int"),
    "matrix with a bias": (lambda f: f.layer().update(type="QuantMatrix", axis=0), "neither a bias nor a ReLU"),
    "matrix with a ReLU": (
        lambda f: (f.layer().update(type="QuantMatrix", axis=0, bias=False, relu=True), drop(f, "fc.bias")),
        "neither a bias nor a ReLU",
    ),
    "unknown option": (option("alpha", 1), "unknown option 'alpha'"),
    "option missing": (lambda f: f.layer().pop("relu"), "lacks the option 'relu'"),
    "input no object": (option("input", 3, "static"), "input must be dict"),
    "qtype unknown": (lambda f: f.header["layers"]["static"]["input"].update(qtype="qint3"), "dtype must be"),
    "qmin float": (lambda f: f.header["layers"]["static"]["input"].update(qmin=0.0), "qmin must be int"),
    "layers a list": (header("layers", []), "layers must map"),
    "layer a list": (header("layers", {"fc": []}), "layers must map"),
    "header: a key too many": (header("extra", 1), "must have version, layers"),
    "version 3": (header("version", 3), "format version 3, this octavo reads 1 to 2; use a newer octavo"),
    "version 2 without features": (header("version", 2), "must have version, layers, aliases, crc32, features"),
    "features no list": (lambda f: f.header.update(version=2, features="grouped"), "features must be a list of names"),
    "feature unknown": (lambda f: f.header.update(version=2, features=["x"]), "needs the feature 'x', which"),
    "version text": (header("version", "1"), "format version '1'"),
    "version missing": (lambda f: f.header.pop("version"), "format version None"),
    "header no object": (lambda f: setattr(f, "header", []), "must be a JSON object"),
    "alias of nothing": (header("aliases", {"b": "nowhere"}), "alias 'b' of 'nowhere' leads nowhere"),
    "alias of itself": (header("aliases", {"b": "b"}), "leads nowhere"),
    "alias of an alias": (header("aliases", {"b": "c", "c": "fc"}), "leads nowhere"),
    "alias with a stored name": (header("aliases", {"table": "fc"}), "stored name itself"),
    "alias a number": (header("aliases", {"b": 1}), "aliases and crc32 to text"),
    "tensor missing": (lambda f: f.tensors.pop("table"), "tensor 'table' is missing"),
    "layer's tensor missing": (
        lambda f: drop(f, "fc.scale"),
        "layer 'fc': its tensor 'fc.scale' is missing",
    ),
    "layer without tensors": (lambda f: f.header["layers"].update(other=dict(f.layer())), "'other.weight' is missing"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", FORGERIES)
def test_load_refuses_what_is_wrong_though_its_checksums_are_right(case: str, forged: Forged) -> None:
    change, message = FORGERIES[case]
    change(forged)
    forged.write()
    model = dict.fromkeys(["fc", "static", "four", "table"])
    with pytest.raises(ValueError, match=message) as caught:
        oc.load(forged.path, model)
    assert str(forged.path) in str(caught.value)
    assert set(model.values()) == {None}


TABLES = {
    "int8: scale zero": ("eight.scale", F([1, 0]), r"layer 'eight': scale must be finite .* got 0.0 at scale\[1\]"),
    "int8: scale NaN": ("eight.scale", F([np.nan, 1]), "got nan"),
    "int8: scale negative": ("eight.scale", F([1, -1]), "got -1.0"),
    "int4: scale zero": ("four.scale", F([[1, 1], [1, 0]]), "layer 'four': scale must be finite and not zero"),
    "int4: scale infinite": ("four.scale", F([[np.inf, 1], [1, 1]]), "layer 'four': scale must be finite and not zero"),
    "int4: zero point of 8": ("four.zero_point", np.full((2, 2), 8, np.int8), "zero_point must hold -8..7, got 8..8"),
    "int4: padding not zero": ("four.weight", np.full((2, 18), 0x11, np.uint8), "nibbles that fill up"),
}  # fmt: skip


@pytest.mark.parametrize("mmap", [False, True], ids=["copied", "mapped"])
@pytest.mark.parametrize("case", TABLES)
def test_tables_with_wrong_values_are_refused_mapped_or_not(case: str, mmap: bool, tmp_path: Path) -> None:
    name, value, message = TABLES[case]
    four = oc.QuantEmbedding(np.ones((2, 35)), dtype="int4", group_size=32, symmetric=False)
    oc.save({"eight": oc.QuantEmbedding(np.ones((2, 3))), "four": four}, tmp_path / "x")
    forged = Forged(tmp_path / "x")
    forged.write()
    oc.load(forged.path, mmap=mmap)
    tensor(name, value)(forged)
    forged.write()
    with pytest.raises(ValueError, match=message):
        oc.load(forged.path, mmap=mmap)


PARTS = {
    "relu": (lambda part: part.update(relu=True), "ih_l0 must be a plain int8 or int4 product, and has epilogue relu"),
    "gelu": (lambda part: part.update(epilogue="gelu"), "has epilogue gelu"),
    "scaled inputs": (lambda part: part.update(pre_quant_scale=True), "has a pre_quant_scale"),
    "rotated inputs": (lambda part: part.update(rotation=16), "has a rotation"),
    "grouped codes": (
        lambda part: part.update(
            dtype="grouped", bits=8, codes="int8", group_size=None, scale_dtype="float32", activation_group=None,
            zero_point=None, minimum=None, group_scale=None, group_minimum=None,
        ),
        "has grouped codes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.tensors["odd.weight_high"].__setitem__((1, 1), 4), "weight_high must have zeros in the bits"),
        (lambda f: f.tensors["odd.weight"].__setitem__((1, 2), 16), "weight must have zeros in the nibbles"),
        (lambda f: drop(f, "odd.weight_high"), "weight_high"),
        (option("bits", 6, "row"), "'row.weight_high' must be U8 of shape .2, 2."),
        (option("bits", 7, "row"), "bits must be one of"),
        (option("bits", 8, "row"), "weight_high stands beside codes of 5 and 6 bits alone, got bits 8"),
        (option("bits", 4, "row"), "weight_high stands beside codes of 5 and 6 bits alone, got bits 4"),
    ],
)
def test_planes_that_do_not_fit_are_refused(change: Callable[[Forged], None], message: str, tmp_path: Path) -> None:
    oc.save(planes_model(), tmp_path / "x")
    forged = Forged(tmp_path / "x")
    change(forged)
    forged.write()
    with pytest.raises(ValueError, match=message):
        oc.load(forged.path)


@pytest.mark.parametrize("kind", [oc.nn.LSTM, oc.nn.GRU], ids=["LSTM", "GRU"])
@pytest.mark.parametrize("case", PARTS)
def test_products_of_recurrent_layers_that_do_more_are_refused(case: str, kind: Any, tmp_path: Path) -> None:
    change, message = PARTS[case]
    oc.save({"rnn": oc.quantize_dynamic(kind.init(32, 8), {kind})}, tmp_path / "x")
    forged = Forged(tmp_path / "x")
    change(forged.header["layers"]["rnn"]["ih_l0"])
    if case == "scaled inputs":
        forged.tensors["rnn.ih_l0.pre_quant_scale"] = np.ones(32, F)
    if case == "grouped codes":
        forged.tensors["rnn.ih_l0.scale"] = forged.tensors["rnn.ih_l0.scale"][:, None]
    forged.write()
    with pytest.raises(ValueError, match=rf"layer 'rnn': .*{message}"):
        oc.load(forged.path)


def test_two_layers_cannot_share_tensors(forged: Forged) -> None:
    """ "fc" with the suffix "input.scale" and "fc.input" with the suffix "scale" are one tensor."""
    params = {"type": "QParams", "qtype": "quint8", "qmin": 0, "qmax": 255, "axis": None, "group_size": None}
    forged.header["layers"]["static.input"] = params
    forged.write()
    with pytest.raises(ValueError, match=r"'static\.input': tensor .* belongs to another layer too"):
        oc.load(forged.path)


def test_tensor_that_the_header_does_not_know_is_refused(forged: Forged) -> None:
    forged.write()
    save_file(forged.tensors | {"more": np.zeros(1)}, forged.path, forged.metadata)
    with pytest.raises(ValueError, match="tensor 'more' is not in the octavo header"):
        oc.load(forged.path)


def test_foreign_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"not written by octavo\. `octavo quantize` converts"):
        oc.load(tmp_path / "x")


def test_path_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        oc.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        oc.save({"a": np.zeros(1)}, tmp_path / "nowhere" / "x")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_truncation_is_refused(name: str, tmp_path: Path) -> None:
    whole = file(name).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a usable safetensors file"):
            oc.load(tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_flipped_bit_is_refused(name: str, tmp_path: Path) -> None:
    """No byte could change the model unseen: there are checksums of the header and of each tensor."""
    whole = bytearray(file(name).read_bytes())
    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        (tmp_path / "x").write_bytes(whole)
        with pytest.raises(ValueError, match="x"):
            oc.load(tmp_path / "x")
        whole[at] ^= 1 << at % 8

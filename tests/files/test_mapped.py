"""Files whose weights lie packed: used in place, repacked for another family, and what cannot be loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import octavo as oc
from format_fixtures import PACKED, file, packed_model
from octavo._files.header import read_tensors
from octavo._files.repacking import repack
from octavo._layers.images import FAMILIES, OWN_FAMILY
from packed_models import B, W, assert_equal, every_layer, products

OTHER = next(family for family in FAMILIES if family != OWN_FAMILY)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return every_layer()


@pytest.fixture
def packed(made: dict[str, Any], tmp_path: Path) -> Path:
    oc.save(made, tmp_path / "m", layout="packed")
    return tmp_path / "m"


def test_mapped_model_lies_in_the_file_and_computes_the_same(made: dict[str, Any], packed: Path) -> None:
    mapped = oc.load(packed, mmap="strict")
    assert all(layer.is_borrowed for layer in products(mapped))
    for array in (mapped["table"]._q, mapped["norm"]):
        assert not array.flags.writeable
        assert not array.flags.owndata
    assert_equal(made, mapped)
    assert not any(layer.is_borrowed for layer in products(oc.load(packed)))
    assert_equal(made, oc.load(packed))


def test_packed_file_is_safetensors_with_images_first_at_multiples_of_64(made: dict[str, Any], packed: Path) -> None:
    assert load_file(packed)["int8.packed"].dtype == np.uint8
    with open(packed, "rb") as opened:
        metadata, tensors, start = read_tensors(opened.read, packed.stat().st_size)
    assert json.loads(metadata["octavo"])["features"] == ["grouped", "packed"]
    images = [t for name, t in tensors.items() if name.endswith("packed")]
    assert all((start + t.begin) % 64 == 0 for t in images)
    assert max(t.end for t in images) == sum(t.nbytes for t in images)


@pytest.mark.parametrize("family", PACKED)
def test_file_of_a_family_loads_to_known_values_and_is_still_written_that_way(family: Any, tmp_path: Path) -> None:
    path = file(f"packed_{family}", 2)
    expected, found = packed_model(), oc.load(path)
    flat = {**expected, **{f"codes.{k}": v for k, v in expected["codes"].items()}, "int8.0": expected["int8"][0]}
    for name in ("grouped", "odd", "whole", "codes.zero_point", "int8.0", "table"):
        np.testing.assert_array_equal(found[name].weight, flat[name].weight)
    np.testing.assert_array_equal(found["codes.both"].grouped().codes, flat["codes.both"].grouped().codes)
    oc.save(expected, tmp_path / "x", layout=family)
    assert (tmp_path / "x").read_bytes() == path.read_bytes()


def compiled(model: dict[str, Any]) -> dict[str, Any]:
    """The compiled layers by name, of a model by name."""
    layers = {name: getattr(item, "_layer", item) for name, item in model.items()}
    return {name: layer._packed for name, layer in layers.items() if isinstance(layer, oc.QuantLinear)}


@pytest.mark.parametrize("family", PACKED)
def test_recorded_file_is_used_in_place_on_its_own_family_alone(family: str, tmp_path: Path) -> None:
    """Both files were recorded on one machine, so that here at least one was packed elsewhere, or for elsewhere."""
    path = file(f"packed_{family}", 2)
    if family == OWN_FAMILY:
        found = oc.load(path, mmap="strict")
        assert all(packed.is_borrowed for packed in compiled(found).values())
    else:
        with pytest.raises(ValueError, match=f"packed for {family}, this machine needs {OWN_FAMILY}"):
            oc.load(path, mmap="strict")
        with pytest.warns(UserWarning, match="octavo pack IN OUT"):
            found = oc.load(path, mmap=True)
        copied = {name for name, packed in compiled(found).items() if not packed.is_borrowed}
        assert copied == {name for name in compiled(found) if not name.startswith("codes.")}
    oc.save(packed_model(), tmp_path / "canonical")
    expected = compiled(oc.load(tmp_path / "canonical"))
    assert compiled(found).keys() == expected.keys()
    for name, packed in compiled(found).items():
        np.testing.assert_array_equal(packed.int_repr(), expected[name].int_repr())
        x = np.linspace(-1, 1, 3 * packed.in_features, dtype=np.float32).reshape(3, -1)
        np.testing.assert_array_equal(packed.try_call(x), expected[name].try_call(x))


def test_file_of_another_family_is_repacked_with_a_warning_or_refused(made: dict[str, Any], tmp_path: Path) -> None:
    oc.save(made, tmp_path / "m", layout=OTHER)
    with pytest.warns(UserWarning, match=f"packed for {OTHER}, this machine needs {OWN_FAMILY}.*octavo pack IN OUT"):
        found = oc.load(tmp_path / "m", mmap=True)
    assert_equal(made, found)
    with pytest.raises(ValueError, match=r'packed for .*mmap=True copies them instead of mmap="strict"'):
        oc.load(tmp_path / "m", mmap="strict")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(made, oc.load(tmp_path / "m"))


def test_canonical_file_is_packed_with_a_warning(made: dict[str, Any], tmp_path: Path) -> None:
    oc.save(made, tmp_path / "m")
    with pytest.warns(UserWarning, match="8 of its layers and arrays"):
        assert_equal(made, oc.load(tmp_path / "m", mmap=True))


def test_file_that_another_tool_rewrote_is_copied(made: dict[str, Any], packed: Path) -> None:
    with open(packed, "rb") as opened:
        metadata, _, _ = read_tensors(opened.read, packed.stat().st_size)
    save_file(load_file(packed), packed, metadata | {"tool": "x" * 3})
    with pytest.warns(UserWarning, match="multiple of 64 bytes: another tool rewrote the file"):
        found = oc.load(packed, mmap=True)
    assert_equal(made, found)


def test_repack_goes_every_way_and_back(made: dict[str, Any], tmp_path: Path) -> None:
    oc.save(made, tmp_path / "m")
    path = tmp_path / "m"
    before = path.read_bytes()
    for layout in ("packed", OTHER, OWN_FAMILY, "canonical"):
        repack(path, path, layout)  # type: ignore[arg-type]
        assert_equal(made, oc.load(path))
    assert path.read_bytes() == before


def test_loading_into_a_model_maps_its_layers(tmp_path: Path) -> None:
    floats = oc.nn.Sequential(oc.nn.Linear(W, B), oc.nn.ReLU())
    oc.save(oc.quantize_dynamic(floats, {oc.nn.Linear}), tmp_path / "m", layout="packed")
    assert oc.load(tmp_path / "m", floats, mmap="strict")[0]._packed.is_borrowed
    arrays = {"fc.weight": W.copy()}
    oc.save({"fc.weight": oc.QuantLinear(W)}, tmp_path / "a", layout="packed")
    assert oc.load(tmp_path / "a", arrays, mmap="strict")["fc.weight"]._layer._packed.is_borrowed


# What goes wrong


def test_altered_file_is_refused_unless_it_is_not_verified(packed: Path) -> None:
    data = bytearray(packed.read_bytes())
    length = int.from_bytes(data[:8], "little")
    data[8 + length + 5] ^= 1
    packed.write_bytes(data)
    with pytest.raises(ValueError, match="does not match its checksum: the file was altered"):
        oc.load(packed, mmap=True)
    oc.load(packed, mmap=True, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_file_one_byte_short_is_refused(packed: Path, verify: bool) -> None:
    os.truncate(packed, packed.stat().st_size - 1)
    with pytest.raises(ValueError, match="truncated or damaged"):
        oc.load(packed, mmap=True, verify=verify)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packed": "riscv"}, "packed must be one of"),
        ({"shape": [70, 300]}, "does not have the size of such a layer"),
        ({"shape": [2**40, 2**40]}, "shape out of range"),
        ({"shape": [70, 2**17]}, "exact int32 sums"),
        ({"activation": "int16"}, "asks for grouped codes"),
        ({"bias": False}, "does not have the size"),
    ],
)
def test_options_that_do_not_fit_the_image_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    oc.save({"fc": oc.QuantLinear(W, B)}, tmp_path / "m", layout="packed")
    with open(tmp_path / "m", "rb") as opened:
        metadata, _, _ = read_tensors(opened.read, (tmp_path / "m").stat().st_size)
    header = json.loads(metadata["octavo"])
    header["layers"]["fc"] |= change
    text = json.dumps(header)
    tensors = load_file(tmp_path / "m")
    save_file(tensors, tmp_path / "m", {"octavo": text, "octavo.crc32": f"{zlib.crc32(text.encode()):08x}"})
    with pytest.raises(ValueError, match=message):
        oc.load(tmp_path / "m")


def test_mapped_file_may_be_replaced_or_deleted_while_in_use(made: dict[str, Any], packed: Path) -> None:
    mapped = oc.load(packed, mmap="strict")
    oc.save({"other": np.zeros(3)}, packed)
    assert_equal(made, mapped)
    again = packed.parent / "again"
    oc.save(mapped, again, layout="packed")
    mapped = oc.load(again, mmap="strict")
    oc.save(mapped, again, layout="packed")  # onto the file that it lies in
    again.unlink()
    assert_equal(made, mapped)


@pytest.mark.slow
def test_processes_that_pack_one_file_at_once_leave_one_whole_file(made: dict[str, Any], tmp_path: Path) -> None:
    oc.save(made, tmp_path / "m")
    command = [sys.executable, "-m", "octavo", "pack", str(tmp_path / "m"), str(tmp_path / "packed")]
    for run in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]:
        assert run.wait() == 0
    assert_equal(made, oc.load(tmp_path / "packed", mmap="strict"))
    assert sorted(os.listdir(tmp_path)) == ["m", "packed"]


@pytest.mark.parametrize("arguments", [{"mmap": "yes"}, {"mmap": 1}, {"verify": None}])
def test_load_refuses_other_kinds_of_arguments(packed: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="verify must be True or False, mmap one of them"):
        oc.load(packed, **arguments)


def test_save_refuses_an_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout must be one of 'canonical', 'packed', 'x86', 'arm', got 'avx2'"):
        oc.save({"a": W}, tmp_path / "m", layout="avx2")  # type: ignore[arg-type]
    assert not os.listdir(tmp_path)

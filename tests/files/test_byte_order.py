"""Files are little-endian on every machine; pickles say their byte order and load on both kinds."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from pickle_fixtures import KINDS, contents, outputs


def test_file_is_little_endian(tmp_path: Path) -> None:
    scale = np.float32([0.5, 2.0**-20, 3.0])
    layer = oc.QuantLinear.from_quantized(np.int8([[1], [2], [-3]]), scale)
    oc.save([layer, np.array([1, -2, 2**40]), np.array(["é", "b"])], tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") < len(data)
    for expected in (scale.astype("<f4"), np.array([1, -2, 2**40], "<i8"), np.array(["é", "b"], "<U1")):
        assert expected.tobytes() in data


def swapped(value: Any) -> Any:
    """The same value with its arrays in the other byte order, as the other kind of machine would pickle them."""
    if type(value) is np.ndarray and value.dtype.kind in "iuf" and value.dtype.itemsize > 1:
        return value.astype(value.dtype.newbyteorder())
    if type(value) is dict:
        return {key: swapped(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(swapped(item) for item in value)
    return value


class FromTheOtherMachine(pickle._Pickler):
    """Pickles every array in the other byte order."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> Any:
        return super().save(swapped(obj) if type(obj) is np.ndarray else obj, save_persistent_id)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_pickle_of_the_other_byte_order_loads_to_an_equal_object(kind: str, protocol: int, tmp_path: Path) -> None:
    made = KINDS[kind]()
    path = tmp_path / "x.pickle"
    with path.open("wb") as file:
        FromTheOtherMachine(file, protocol).dump(made)
    loaded = pickle.loads(path.read_bytes())
    swapped_still = protocol == 5  # NumPy turns arrays of protocol 4 as it reads them
    assert contents(loaded, any_order=swapped_still) == contents(made)
    before, now = outputs(kind, loaded), outputs(kind, made)
    if now is not None:
        np.testing.assert_array_equal(before, now)

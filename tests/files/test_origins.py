"""Pickles of layers of mapped files: by reference, with packed weights in buffers, and what goes wrong on the way."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo as oc
from octavo._files import header, mapped_layers, octavo_header
from octavo._layers.images import FAMILIES, OWN_FAMILY
from packed_models import B, W, assert_equal, every_layer, products

OTHER = next(family for family in FAMILIES if family != OWN_FAMILY)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return every_layer()


@pytest.fixture
def path(made: dict[str, Any], tmp_path: Path) -> Path:
    oc.save(made, tmp_path / "m", layout="packed")
    return tmp_path / "m"


def out_of_band(thing: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(thing, protocol=5, buffer_callback=buffers.append), buffers


def aligned(buffer: pickle.PickleBuffer, at: int = 0) -> memoryview:
    """A read-only copy that starts `at` bytes behind a multiple of 64."""
    raw = buffer.raw()
    memory = np.zeros(raw.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + at
    memory[start : start + raw.nbytes] = raw
    return memory[start : start + raw.nbytes].data.toreadonly()


# By reference


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_of_a_mapped_model_holds_references_alone(made: dict[str, Any], path: Path, protocol: int) -> None:
    mapped = oc.load(path, mmap="strict")
    del mapped["norm"]  # an array, which NumPy pickles
    text = pickle.dumps(mapped, protocol)
    assert len(text) < 2000
    loaded = pickle.loads(text)
    assert all(layer.is_borrowed for layer in products(loaded))
    assert_equal(made, loaded | {"norm": B})


def test_copies_of_a_mapped_layer_still_refer_to_the_file(path: Path) -> None:
    mapped = oc.load(path, mmap=True)
    for name in ("int8", "static", "matrix", "table", "lstm"):
        for twin in (copy.copy(mapped[name]), copy.deepcopy(mapped[name])):
            assert len(pickle.dumps(twin)) < 400


def test_pickle_by_reference_switched_off_holds_the_integers(made: dict[str, Any], path: Path) -> None:
    mapped = oc.load(path, mmap=True)
    with oc.pickle_by_reference(False):
        texts = [pickle.dumps(mapped, protocol) for protocol in (4, 5)]
    assert len(pickle.dumps(mapped["int8"])) < 200
    path.unlink()
    for text in texts:
        assert len(text) > 50000
        assert_equal(made, pickle.loads(text))
    assert len(pickle.dumps(mapped["int8"])) > 10000  # nobody could follow a reference


def test_pickle_by_reference_takes_a_bool_alone() -> None:
    with pytest.raises(TypeError, match="on must be True or False, got 'no'"):
        oc.pickle_by_reference("no")  # type: ignore[arg-type]
    setting = oc.pickle_by_reference(False)
    assert repr(setting) == "pickle_by_reference(False), True before"
    with setting:
        pass


def test_model_of_two_files_refers_to_both(made: dict[str, Any], path: Path) -> None:
    other = path.parent / "other"
    oc.save({"fc": oc.QuantLinear(-W)}, other, layout="packed")
    both = {"a": oc.load(path, mmap=True)["int8"], "b": oc.load(other, mmap=True)["fc"]}
    text = pickle.dumps(both)
    assert str(path).encode() in text
    assert str(other).encode() in text
    loaded = pickle.loads(text)
    x = np.ones((2, 257), np.float32)
    for name in both:
        np.testing.assert_array_equal(loaded[name](x), both[name](x))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_a_file_is_open_once_and_as_long_as_a_layer_of_its_pickle_lives(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pickle.dumps(oc.load(path, mmap=True))
    opened = []
    reader = mapped_layers.Reader
    monkeypatch.setattr(mapped_layers, "Reader", lambda path, *memory: opened.append(path) or reader(path, *memory))
    loaded = pickle.loads(text)
    assert opened == [str(path)]
    kept = loaded["int8"]
    del loaded
    again = pickle.loads(text)
    assert opened == [str(path)]
    assert str(path) in Path("/proc/self/maps").read_text()
    del kept, again
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_header_is_parsed_once_for_pickles_in_a_row(
    made: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pickle.dumps(oc.load(path, mmap=True)["int8"])
    parsed: list[str] = []
    for module in (header, octavo_header):
        parse = module.parse_json
        monkeypatch.setattr(module, "parse_json", lambda *args, parse=parse: parsed.append(args[1]) or parse(*args))
    for _ in range(3):
        layer = pickle.loads(text)
        del layer
        assert str(path) not in [key[0] for key in mapped_layers._mapped]  # closed
    assert parsed == ["header", "octavo header"]
    for name in "abcde":
        oc.save({"int8": oc.QuantLinear(W)}, path.parent / name, layout="packed")
        pickle.loads(pickle.dumps(oc.load(path.parent / name, mmap=True)["int8"]))
    assert len(mapped_layers._memories) == mapped_layers._REMEMBERED
    oc.save({"int8": oc.QuantLinear(-W)}, path.parent / "e", layout="packed")  # the size is as before
    x = np.ones((2, 257), np.float32)
    changed = pickle.loads(pickle.dumps(oc.load(path.parent / "e", mmap=True)["int8"]))
    np.testing.assert_array_equal(changed(x), oc.QuantLinear(-W)(x))


def test_reference_to_a_file_that_is_not_there_names_it_and_the_remedy(path: Path) -> None:
    text = pickle.dumps(oc.load(path, mmap=True)["int8"])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"/m does not exist here.*'int8'.*pickle_by_reference\(False\)"):
        pickle.loads(text)


def test_reference_to_a_file_that_must_not_be_read_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = pickle.dumps(oc.load(path, mmap=True)["int8"])

    def refuse(*args: object) -> None:  # root, as in containers, may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PermissionError, match="must not be read by this process"):
        pickle.loads(text)


def test_reference_to_a_changed_file_is_refused(path: Path) -> None:
    text = pickle.dumps(oc.load(path, mmap=True)["int8"])
    oc.save({"int8": oc.QuantLinear(W + 1)}, path, layout="packed")
    with pytest.raises(ValueError, match="is another file than the one that the pickle of layer 'int8' refers to"):
        pickle.loads(text)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or damaged"):
        pickle.loads(text)


# With buffers


def test_layers_pickle_with_their_memory_out_of_band(made: dict[str, Any]) -> None:
    text, buffers = out_of_band(made)
    assert len(text) < 6000
    assert_equal(made, pickle.loads(text, buffers=buffers))


def test_receiver_computes_in_an_aligned_buffer_and_copies_others(made: dict[str, Any]) -> None:
    layer = made["int8"]
    text, (buffer,) = out_of_band(layer)
    x = np.ones((2, 257), np.float32)
    for at, in_place in ((0, True), (16, False)):
        loaded = pickle.loads(text, buffers=[aligned(buffer, at)])
        assert loaded._packed.is_borrowed == in_place
        np.testing.assert_array_equal(loaded(x), layer(x))
    assert not pickle.loads(pickle.dumps(layer, 5))._packed.is_borrowed


def test_pickle_of_another_family_is_repacked(made: dict[str, Any]) -> None:
    layer = made["int4"]
    restore, (state,) = layer.__reduce_ex__(5)
    state |= {"family": OTHER, "image": pickle.PickleBuffer(layer._packed.image(OTHER).data)}
    loaded = restore(state)
    x = np.ones((2, 257), np.float32)
    np.testing.assert_array_equal(loaded(x), layer(x))
    assert not loaded._packed.is_borrowed


def test_pickle_whose_buffer_is_cut_is_refused(made: dict[str, Any]) -> None:
    text, (buffer,) = out_of_band(made["int8"])
    with pytest.raises(ValueError, match="does not have the size of such a layer"):
        pickle.loads(text, buffers=[aligned(buffer)[:-64]])


@pytest.mark.parametrize("name", ["int8", "static"])
def test_pickle_of_a_later_version_is_refused(made: dict[str, Any], name: str) -> None:
    restore, (state,) = made[name].__reduce_ex__(5)
    with pytest.raises(ValueError, match=r"pickled with format 9.*use a newer octavo"):
        restore(state | {"version": 9})


def test_receiver_uses_shared_memory_in_place(made: dict[str, Any]) -> None:
    text, (buffer,) = out_of_band(made["int8"])
    shared = shared_memory.SharedMemory(create=True, size=buffer.raw().nbytes)
    try:
        shared.buf[: buffer.raw().nbytes] = buffer.raw()
        loaded = pickle.loads(text, buffers=[shared.buf[: buffer.raw().nbytes]])
        assert loaded._packed.is_borrowed
        x = np.ones((2, 257), np.float32)
        np.testing.assert_array_equal(loaded(x), made["int8"](x))
        del loaded
    finally:
        shared.close()
        shared.unlink()

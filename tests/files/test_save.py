"""save: what it refuses, the names it takes, and that the file that was there survives."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from models import Model
from octavo._files import safetensors as checkpoint
from reference import random_layer

UNSAVABLE = {
    "nothing": (Model(a=1.0), ValueError, "nothing to store"),
    "dates": ({"a": np.array(["2020"], "M8[D]")}, TypeError, r"model\.a: it has dtype datetime64.*joblib\.dump"),
    "text with NUL": ({"a": np.array(["x\0"], object)}, TypeError, r"model\.a: it holds text that ends with NUL"),
    "complex128": ([np.zeros(1, complex)], TypeError, "complex128"),
    "masked": ([np.ma.zeros(1)], TypeError, r"it must not be a masked array, whose mask would be lost"),
    "subclass": ([type("Own", (oc.QuantLinear,), {})(np.ones((1, 1)))], TypeError, "Own is a class of its own"),
    "in a set": ({random_layer(2, 2)}, ValueError, r"model\.\{\} is in a set"),
    "same name": ({1: random_layer(2, 2), "1": random_layer(2, 2)}, ValueError, r"model\.1 and model\.1 would both"),
    "tensor's name": ({"a": random_layer(2, 2), "a.scale": np.ones(2)}, ValueError, "name of another"),
}


@pytest.mark.parametrize("model", [oc.nn.Linear(np.eye(2)), {"a": np.ones(2)}, 3, None], ids=lambda v: type(v).__name__)
def test_paths_and_models_in_the_wrong_order_are_told_apart(model: object, tmp_path: Path) -> None:
    kind = type(model).__name__
    for path in (tmp_path / "x", str(tmp_path / "x")):
        with pytest.raises(
            TypeError, match=rf"path must be .*, got a {kind}; the order is octavo\.save\(model, path\)"
        ):
            oc.save(path, model)  # type: ignore[arg-type]
        with pytest.raises(
            TypeError, match=rf"path must be .*, got a {kind}; the order is octavo\.load\(path, model\)"
        ):
            oc.load(model, path)  # type: ignore[call-overload]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", UNSAVABLE)
def test_save_refuses_and_leaves_the_old_file(case: str, tmp_path: Path) -> None:
    model, kind, message = UNSAVABLE[case]
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(kind, match=message):
        oc.save(model, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["x" * 255, "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 85], ids=["long", "wide"])
def test_save_takes_every_name_that_the_file_system_takes(name: str, tmp_path: Path) -> None:
    oc.save({"a": np.arange(3)}, tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert list(oc.load(tmp_path / name)) == ["a"]


def test_save_follows_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(0o640)
    (tmp_path / "link").symlink_to("x")
    oc.save({"a": np.arange(3)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert list(oc.load(tmp_path / "x")) == ["a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_save_does_not_take_the_place_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="device or a pipe"):
        oc.save({"a": np.arange(3)}, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_full_disk_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    oc.save({"a": np.arange(3)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            oc.save(random_layer(200, 200), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert oc.load(path)["a"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["x"]


def test_file_of_the_model_that_is_saved_may_be_its_own(tmp_path: Path) -> None:
    oc.save([random_layer(30, 20)], tmp_path / "x")
    found = oc.load(tmp_path / "x")
    before = (tmp_path / "x").read_bytes()
    oc.save(found, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == before


def test_what_load_would_refuse_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "f"
    oc.save({"w": np.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="'m' must have a shape of at most 32 sizes, got 33"):
        checkpoint.Writer(path, {"m": checkpoint.Tensor("F32", (1,) * 33)})
    assert path.read_bytes() == before

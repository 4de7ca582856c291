"""Workers that map one file: killed in the middle, and without the right to read it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from packed_models import W, X

TASKS = 12


def compute(path: str, layer: oc.QuantLinear, task: int) -> bytes:
    """What a worker does: the layer came as a reference, and once more it maps the file itself."""
    y = layer(X * task) + oc.load(path, mmap="strict", verify=False)["fc"](X)
    time.sleep(0.05)
    return y.tobytes()


def gathered(path: str, layer: oc.QuantLinear, kill: bool) -> dict[int, bytes]:
    """Results by task; where a worker is killed, those that were there before."""
    found: dict[int, bytes] = {}
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        futures = [pool.submit(compute, path, layer, task) for task in range(TASKS)]
        if kill:  # one that is not done before a worker is killed, however late that is
            futures.append(pool.submit(time.sleep, 300))
        for task, future in enumerate(futures):
            found[task] = future.result()
            if kill:
                os.kill(next(iter(pool._processes)), signal.SIGKILL)
                kill = False
    return found


@pytest.mark.slow
def test_killed_worker_harms_neither_the_file_nor_those_who_map_it(tmp_path: Path) -> None:
    path = tmp_path / "m"
    oc.save({"fc": oc.QuantLinear(W)}, path, layout="packed")
    before, layer = path.read_bytes(), oc.load(path, mmap="strict")["fc"]
    expected = {task: (layer(X * task) + layer(X)).tobytes() for task in range(TASKS)}
    with pytest.raises(BrokenProcessPool):
        gathered(str(path), layer, kill=True)
    assert gathered(str(path), layer, kill=False) == expected
    assert layer(X).tobytes() == expected[0]
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


PACK = """
import sys, time
import octavo as oc
from octavo._files import safetensors
append = safetensors.Writer.append
def slow(self, name, data):
    append(self, name, data)
    print("written", flush=True)
    time.sleep(60)
safetensors.Writer.append = slow
oc.save(oc.load(sys.argv[1]), sys.argv[2], layout="packed")
"""


@pytest.mark.slow
def test_process_killed_while_it_packs_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    oc.save({"fc": oc.QuantLinear(W)}, tmp_path / "m")
    oc.save({"fc": oc.QuantLinear(-W)}, tmp_path / "packed", layout="packed")
    before = (tmp_path / "packed").read_bytes()
    command = [sys.executable, "-c", PACK, str(tmp_path / "m"), str(tmp_path / "packed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as packing:
        assert packing.stdout is not None
        assert packing.stdout.readline() == "written\n"
        packing.kill()
    assert (tmp_path / "packed").read_bytes() == before
    oc.save(oc.load(tmp_path / "m"), tmp_path / "packed", layout="packed")
    np.testing.assert_array_equal(oc.load(tmp_path / "packed", mmap="strict")["fc"](X), oc.QuantLinear(W)(X))


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who owns nothing: root may read everything."""
    root = os.geteuid() == 0
    if root:
        try:
            os.seteuid(65534)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("this namespace has one user alone")
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mmap", [False, True, "strict"])
def test_file_that_must_not_be_read_is_a_permission_error(tmp_path: Path, mmap: bool) -> None:
    path = tmp_path / "m"
    oc.save({"fc": oc.QuantLinear(W)}, path, layout="packed")
    text = pickle.dumps(oc.load(path, mmap=True)["fc"])
    path.chmod(0)
    with nobody():
        with pytest.raises(PermissionError, match=str(path)):
            oc.load(path, mmap=mmap)  # type: ignore[arg-type]
        with pytest.raises(PermissionError, match=rf"{path} must not be read by this process.*pickle_by_reference"):
            pickle.loads(text)
    path.chmod(0o600)
    assert pickle.loads(text).in_features == 257


def test_folder_that_must_not_be_written_to_is_a_permission_error() -> None:
    layer = oc.QuantLinear(W)
    with tempfile.TemporaryDirectory() as folder:  # below folders that everybody may pass through
        path = Path(folder) / "m"
        oc.save({"fc": layer}, path, layout="packed")
        before = path.read_bytes()
        os.chmod(folder, 0o555)
        with nobody(), pytest.raises(PermissionError, match="cannot write into this folder"):
            oc.save({"fc": layer}, path, layout="packed")
        os.chmod(folder, 0o755)
        assert path.read_bytes() == before
        assert os.listdir(folder) == ["m"]

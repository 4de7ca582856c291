"""How many threads octavo begins with, and who else may set that."""

from __future__ import annotations

import pytest

import octavo as oc
from interpreter import python

COUNT = "import octavo as oc; print(oc.get_num_threads(), oc.cpu_info().cpus)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "5,2"}, "5"),
        ({"OMP_NUM_THREADS": "3", "OCTAVO_NUM_THREADS": "7"}, "7"),
        ({"OMP_NUM_THREADS": "many"}, None),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": "2.5"}, None),
        ({"OMP_NUM_THREADS": ""}, None),
    ],
    ids=str,
)
def test_environment_sets_threads_in_order_of_precedence(environment: dict[str, str], expected: str | None) -> None:
    threads, cpus = python(COUNT, **environment).stdout.split()
    assert threads == (expected or cpus)


@pytest.mark.slow
def test_number_set_in_code_outranks_the_environment() -> None:
    code = "import octavo as oc; oc.set_num_threads(2); print(oc.get_num_threads())"
    assert python(code, OMP_NUM_THREADS="3", OCTAVO_NUM_THREADS="5").stdout.strip() == "2"


def test_threadpoolctl_lists_and_limits_octavo() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    pytest.importorskip("scipy.optimize", reason="scipy, which has a module _core of its own, is not installed")
    oc.register_threadpoolctl()
    oc.register_threadpoolctl()
    with oc.set_num_threads(3):
        (found,) = (info for info in threadpoolctl.threadpool_info() if info["user_api"] == "octavo")
        assert (found["num_threads"], found["version"]) == (3, oc.__version__)
        with threadpoolctl.threadpool_limits(1, user_api="octavo"):
            assert oc.get_num_threads() == 1
        with threadpoolctl.threadpool_limits(2):
            assert oc.get_num_threads() == 2
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            assert oc.get_num_threads() == 3
        with threadpoolctl.threadpool_limits(10**6, user_api="octavo"):
            assert oc.get_num_threads() == 4096  # as many as set_num_threads takes
        assert oc.get_num_threads() == 3


@pytest.mark.slow
def test_octavo_registers_where_threadpoolctl_is_there_before_and_never_imports_it() -> None:
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    code = """
import sys
import octavo
assert "threadpoolctl" not in sys.modules
"""
    assert python(code).returncode == 0
    code = """
import threadpoolctl
import octavo
print([i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "octavo"])
"""
    assert python(code, OCTAVO_NUM_THREADS="3").stdout.strip() == "[3]"

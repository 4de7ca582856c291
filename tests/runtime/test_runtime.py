"""kernels(), use_kernel, threads and the environment variables behind them."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import octavo as oc
from interpreter import python
from octavo import _core


def test_kernels_are_listed_best_first() -> None:
    infos = oc.kernels()
    assert infos[-1].name == "scalar"
    assert infos[-1].supported
    assert sum(k.active for k in infos) == 1
    for k in infos:
        assert k.supported == (not k.missing)


def test_use_kernel_forces_and_restores(kernel: str) -> None:
    assert next(k.name for k in oc.kernels() if k.active) == kernel
    with oc.use_kernel("scalar"):
        assert next(k.name for k in oc.kernels() if k.active) == "scalar"
        with oc.use_kernel(None):
            assert next(k for k in oc.kernels() if k.active) == next(k for k in oc.kernels() if k.supported)
        assert next(k.name for k in oc.kernels() if k.active) == "scalar"
    assert next(k.name for k in oc.kernels() if k.active) == kernel


def test_use_kernel_restores_after_an_error() -> None:
    before = next(k.name for k in oc.kernels() if k.active)
    with pytest.raises(ZeroDivisionError), oc.use_kernel("scalar"):
        _ = 1 / 0
    assert next(k.name for k in oc.kernels() if k.active) == before


def test_use_kernel_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"no kernel is named 'avx9'; this build has .*scalar"):
        oc.use_kernel("avx9")


def active() -> str:
    return next(k.name for k in oc.kernels() if k.active)


SETTINGS = {
    "threads": (lambda: oc.set_num_threads(3), oc.get_num_threads, 3),
    "min_rows": (lambda: oc.set_min_rows("scalar", 77), lambda: oc.kernels()[-1].min_rows, 77),
    "pool": (lambda: oc.set_result_pool(12345), lambda: oc.result_pool().max_bytes, 12345),
    "kernel": (lambda: oc.use_kernel("scalar"), active, "scalar"),
    "verbose": (lambda: oc.set_verbose(False), _core.verbosity, 0),
}


@pytest.fixture
def defaults() -> Iterator[None]:
    """No kernel forced, reports on stderr; afterwards all as it was."""
    with oc.use_kernel(None), oc.set_verbose(False):
        _core.set_verbosity(1)
        yield


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_act_at_once_and_are_put_back_after_with(name: str) -> None:
    change, value, new = SETTINGS[name]
    before = value()
    made = change()
    try:
        assert value() == new
        with made:
            assert value() == new
        assert value() == before
        with pytest.raises(ZeroDivisionError), change():
            _ = 1 / 0
        assert value() == before
        with change(), change():
            assert value() == new
        assert value() == before
    finally:
        made.__exit__(None, None, None)


def test_settings_say_what_they_set_and_what_was_before() -> None:
    with oc.set_num_threads(2), oc.set_num_threads(3) as nothing:
        assert nothing is None
        assert repr(oc.set_num_threads(1)) == "set_num_threads(1), 3 before"
    with oc.use_kernel("scalar"):
        assert repr(oc.use_kernel("scalar")) == "use_kernel('scalar'), scalar before"


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: oc.set_num_threads(0), oc.get_num_threads),
        (lambda: oc.set_min_rows("scalar", -1), oc.kernels),
        (lambda: oc.set_result_pool(-1), oc.result_pool),
        (lambda: oc.use_kernel("avx9"), oc.kernels),
        (lambda: oc.set_verbose("loud"), _core.verbosity),  # type: ignore[arg-type]  # wrong on purpose
    ],
    ids=["threads", "min_rows", "pool", "kernel", "verbose"],
)
def test_settings_change_nothing_where_the_value_is_wrong(call: Any, value: Any) -> None:
    before = value()
    with pytest.raises((TypeError, ValueError)), call():
        pass
    assert value() == before


def test_kernels_are_a_tuple_that_shows_itself_as_a_table() -> None:
    infos = oc.kernels()
    assert isinstance(infos, tuple)
    lines = repr(infos).splitlines()
    assert lines[0].split() == ["kernel", "runs", "here", "in", "use", "from", "rows"]
    assert [line.split()[0] for line in lines[1:]] == [k.name for k in infos]
    html = infos._repr_html_()  # type: ignore[attr-defined]
    assert html.count("<tr>") == len(infos) + 1
    for copied in (copy.deepcopy(infos), pickle.loads(pickle.dumps(infos))):
        assert copied == infos


def test_cpu_info_shows_itself_as_a_table() -> None:
    info = oc.CpuInfo("Some CPU", "x86_64", {"avx2": True, "fma": True, "amx_int8": False}, {"l1d": 32768}, 4)
    assert repr(info).splitlines() == [
        "CPU           Some CPU",
        "architecture  x86_64",
        "available     4",
        "caches        L1D 32 KiB",
        "features      avx2 fma",
        "not here      amx_int8",
    ]
    assert "<td" in info._repr_html_()


@pytest.mark.slow
def test_set_num_threads_outranks_a_wrong_environment_and_gives_it_back() -> None:
    code = """
import octavo as oc
with oc.set_num_threads(2):
    print(oc.get_num_threads())
oc.get_num_threads()
"""
    result = python(code, OCTAVO_NUM_THREADS="many")
    assert result.stdout.strip() == "2"
    assert 'OCTAVO_NUM_THREADS must be a whole number from 1 to 4096, got "many"' in result.stderr


def test_set_min_rows_leaves_the_bits_and_takes_effect() -> None:
    best, *_, last = [k.name for k in oc.kernels() if k.supported]
    if best == last:
        pytest.skip("one kernel runs here: nothing to choose from")
    rng = np.random.default_rng(3)
    layer = oc.QuantLinear(rng.standard_normal((20, 30)).astype(np.float32))
    x = rng.standard_normal((4, 30)).astype(np.float32)
    before = layer(x)
    names = [k.name for k in oc.kernels()]
    try:
        with oc.use_kernel(None):
            for name in names:
                if not _core.missing_features(name):
                    oc.set_min_rows(name, 100)
            assert _core.kernel_for(4) == last
            assert _core.kernel_for(100) == best
            np.testing.assert_array_equal(layer(x), before)
            found = next(k for k in oc.kernels() if k.name == best)
            assert {found.min_rows, *found.min_rows_by_weights.values()} == {100}
    finally:
        for k in oc.kernels():
            if k.supported:
                _core.set_min_rows(k.name, None)


def test_min_rows_by_weights() -> None:
    for kernel in oc.kernels():
        assert kernel.min_rows_by_weights["int8"] == kernel.min_rows
        if kernel.name == "scalar":
            assert kernel.min_rows_by_weights == dict.fromkeys(("int8", "int8 up to 1 MB", "int4", "grouped"), 1)
        if kernel.name == "amxint8":
            assert "5 (int8 up to 1 MB: 3, int4: 16, grouped: 16)" in str(oc.kernels())
        if kernel.name == "neondot":
            assert kernel.min_rows_by_weights.keys() >= {"int8", "int4", "grouped"}
    assert oc.KernelInfo("of another machine", (), False, 7).min_rows_by_weights == {}


@pytest.mark.parametrize(
    ("name", "rows", "error", "message"),
    [
        ("avx9", 4, ValueError, r"no kernel is named 'avx9'; this build has .*scalar"),
        ("scalar", 0, ValueError, r"rows must be 1 or more .*, got 0"),
        ("scalar", 2.0, TypeError, r"rows must be an integer, got float"),
        ("scalar", True, TypeError, r"rows must be an integer, got bool"),
    ],
)
def test_set_min_rows_refuses(name: str, rows: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        oc.set_min_rows(name, rows)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.slow
def test_octavo_min_rows_is_read() -> None:
    code = "import octavo as oc; print([k.min_rows for k in oc.kernels() if k.name == 'scalar'])"
    assert python(code, OCTAVO_MIN_ROWS="scalar=9").stdout.strip() == "[9]"
    wrong = python(code, OCTAVO_MIN_ROWS="scalar:9")
    assert 'OCTAVO_MIN_ROWS: expected NAME=ROWS,... such as amxint8=8, got "scalar:9"' in wrong.stderr


@pytest.mark.slow
def test_octavo_min_rows_is_read_where_a_kernel_is_forced_first() -> None:
    code = "from octavo import _core; _core.force_kernel('scalar'); print(_core.min_rows('scalar')[0])"
    assert python(code, OCTAVO_MIN_ROWS="scalar=9").stdout.strip() == "9"


@pytest.mark.slow
def test_wrong_octavo_min_rows_changes_nothing() -> None:
    code = """
import os
from octavo import _core
try:
    _core.min_rows("scalar")
except ValueError as error:
    print(error)
del os.environ["OCTAVO_MIN_ROWS"]
print(_core.chosen_min_rows("scalar"))
"""
    said, chosen = python(code, OCTAVO_MIN_ROWS="scalar=1000,bogus=1").stdout.splitlines()
    assert 'no kernel is named "bogus"' in said
    assert chosen == "None"


def test_show_config_says_what_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "feature_refusal", lambda: "the operating system refused the tile registers: no")
    text = "\n".join(oc.runtime.config_lines())
    assert "amx_int8: the CPU has it, but the operating system refused the tile registers: no" in text


def test_cpu_info_describes_this_machine() -> None:
    info = oc.cpu_info()
    assert info.cpus >= 1
    assert info.brand
    assert info.cache_bytes["l1d"] >= 8192


def test_set_num_threads_takes_effect() -> None:
    before = oc.get_num_threads()
    try:
        oc.set_num_threads(3)
        assert oc.get_num_threads() == 3
    finally:
        oc.set_num_threads(before)


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (4097, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_set_num_threads_refuses(n, error) -> None:
    with pytest.raises(error, match="n must be"):
        oc.set_num_threads(n)


CALL = "import numpy as np, octavo as oc; print(oc.QuantLinear(np.eye(3))(np.ones((2, 3), np.float32)).sum())"


@pytest.mark.slow
def test_environment_forces_a_kernel(kernel: str) -> None:
    result = python(CALL + "; print(*(k.name for k in oc.kernels() if k.active))", OCTAVO_ISA=kernel)
    assert result.stdout.split() == ["6.0", kernel], result.stderr


@pytest.mark.slow
def test_environment_with_an_unknown_kernel_is_an_error_at_use() -> None:
    result = python(CALL, OCTAVO_ISA="avx9")
    assert result.returncode == 1
    assert 'ValueError: OCTAVO_ISA: no kernel is named "avx9"; this build has' in result.stderr
    assert python("import octavo", OCTAVO_ISA="avx9").returncode == 0
    mended = python("import octavo as oc; oc.use_kernel('scalar'); " + CALL, OCTAVO_ISA="avx9")
    assert mended.stdout.split() == ["6.0"], mended.stderr


@pytest.mark.slow
def test_environment_sets_threads() -> None:
    assert python("import octavo as oc; print(oc.get_num_threads())", OCTAVO_NUM_THREADS="3").stdout.strip() == "3"
    result = python("import octavo as oc; oc.get_num_threads()", OCTAVO_NUM_THREADS="many")
    assert 'OCTAVO_NUM_THREADS must be a whole number from 1 to 4096, got "many"' in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_threads_respect_affinity() -> None:
    one_cpu = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code = one_cpu + "import octavo as oc; print(oc.get_num_threads())"
    assert python(code).stdout.strip() == "1"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_layer_works_on_both_sides_of_a_fork() -> None:
    code = """
import os, numpy as np, octavo as oc
oc.set_num_threads(4)
layer = oc.QuantLinear(np.random.default_rng(0).standard_normal((300, 300)))
x = np.random.default_rng(1).standard_normal((200, 300), dtype=np.float32)
expected = layer(x).tobytes()
child = os.fork()
ok = all(layer(x).tobytes() == expected for _ in range(20))
if child == 0:
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
print(ok, os.waitstatus_to_exitcode(status))
"""
    result = python("import warnings; warnings.simplefilter('ignore')\n" + code)
    assert result.stdout.split() == ["True", "0"], result.stderr


def test_show_config_tells_what_runs(capsys: pytest.CaptureFixture[str], kernel: str) -> None:
    oc.show_config()
    text = capsys.readouterr().out
    assert f"{kernel:12} chosen: forced" in text
    assert "features" in text
    assert "threads" in text


def test_show_config_says_what_an_unsupported_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from octavo import runtime

    infos = (oc.KernelInfo("best", ("avx_vnni",), False), oc.KernelInfo("scalar", (), True))
    monkeypatch.setattr(runtime, "kernels", lambda: infos)
    assert any("best" in line and "not supported here: lacks avx_vnni" in line for line in runtime.config_lines())


def test_results_of_all_kernels_are_the_same_bits() -> None:
    layer = oc.QuantLinear(np.random.default_rng(0).standard_normal((70, 90)), activation="asymmetric")
    x = np.random.default_rng(1).standard_normal((33, 90), dtype=np.float32)
    results = set()
    for k in oc.kernels():
        if k.supported:
            with oc.use_kernel(k.name):
                results.add(layer(x).tobytes())
    assert len(results) == 1

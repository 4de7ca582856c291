"""OCTAVO_VERBOSE=1 and set_verbose: a line or a log record for each product, never both, and nothing otherwise."""

from __future__ import annotations

import logging
import re
import sys

import numpy as np
import pytest

import octavo as oc
from interpreter import python

CODE = """
import numpy as np, octavo as oc
oc.set_num_threads(2)
layer = oc.QuantLinear(np.ones((1000, 400), np.float32))
layer(np.ones((900, 400), np.float32))
oc.QuantLinear(np.ones((30, 20)))(np.ones((2, 3, 20)))
layer(np.ones((0, 400), np.float32))
oc.ops.matmul_integer(np.ones((5, 6), np.int8), np.ones((6, 7), np.uint8))
params = oc.choose_qparams(np.array([-1.0, 1.0]), "int8")
oc.StaticQuantLinear(np.ones((9, 8), np.int8), np.float32(1), input=params)(np.ones((1, 8), np.float32))
print("done")
"""
LINE = re.compile(
    r"octavo: (?P<what>[a-z0-9_ ]+) (?P<shape>\d+x\d+x\d+), kernel (?P<kernel>\w+), (?P<threads>\d+) threads?, "
    r"(?P<blocks>\d+) blocks? of (?P<of>rows|columns|matrices), (?P<ms>\d+\.\d{3}) ms"
)


@pytest.mark.slow
def test_verbose_prints_a_line_a_call(kernel: str) -> None:
    result = python(CODE, OCTAVO_VERBOSE="1", OCTAVO_ISA=kernel)
    assert result.stdout == "done\n"
    lines = [LINE.fullmatch(line) for line in result.stderr.splitlines()]
    assert None not in lines, result.stderr
    found = [(line["what"], line["shape"], line["kernel"], line["threads"]) for line in lines if line is not None]
    assert found == [
        ("linear", "900x400x1000", kernel, "2"),
        ("linear", "6x20x30", kernel, "1"),
        ("matmul_integer", "5x6x7", kernel, "1"),
        ("static linear", "1x8x9", kernel, "1"),
    ]
    assert lines[0] is not None
    assert int(lines[0]["blocks"]) >= 2
    assert float(lines[0]["ms"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, "", "0"], ids=["unset", "empty", "0"])
def test_verbose_off_prints_nothing(value: str | None) -> None:
    environment = {} if value is None else {"OCTAVO_VERBOSE": value}
    assert python(CODE, **environment).stderr == ""


@pytest.mark.slow
def test_verbose_refuses_what_is_neither() -> None:
    result = python(CODE, OCTAVO_VERBOSE="loud")
    assert 'ValueError: OCTAVO_VERBOSE must be 0 or 1, got "loud"' in result.stderr
    assert oc.kernels()  # of this process, which has no such variable


PRODUCTS = """
import logging, sys, threading, numpy as np, octavo as oc
{setup}
layer, x = oc.QuantLinear(np.ones((300, 400), np.float32)), np.ones((900, 400), np.float32)
layer(x)
with oc.set_verbose({on}):
    thread = threading.Thread(target=layer, args=(x,))
    thread.start()
    thread.join()
    layer(x[:1])
    oc.QuantMatrix(np.ones((96, 64), np.float32), dtype="int4").__rmatmul__(np.ones((2, 96), np.float32))
    oc.ops.matmul_integer(np.ones((5, 6), np.int8), np.ones((6, 7), np.uint8))
layer(x)
print("done")
"""
TO_STDOUT = "logging.basicConfig(stream=sys.stdout, level=logging.INFO, format='%(name)s %(levelname)s %(message)s')"
SHAPES = ["900x400x300", "1x400x300", "2x96x64", "5x6x7"]


def shapes(text: str, start: str) -> list[str]:
    return [line.removeprefix(start).split(",")[0].split()[-1] for line in text.splitlines() if line != "done"]


@pytest.mark.slow
def test_set_verbose_logs_each_product() -> None:
    result = python(PRODUCTS.format(setup=TO_STDOUT, on=True))
    assert result.stderr == ""
    assert all(line.startswith("octavo INFO ") for line in result.stdout.splitlines()[:-1])
    assert shapes(result.stdout, "octavo INFO ") == SHAPES


@pytest.mark.slow
def test_set_verbose_without_logging_prints_to_stderr() -> None:
    result = python(PRODUCTS.format(setup="", on=True))
    assert result.stdout == "done\n"
    assert all(LINE.fullmatch(line) for line in result.stderr.splitlines())
    assert shapes(result.stderr, "octavo: ") == SHAPES


@pytest.mark.slow
def test_set_verbose_beside_the_environment_never_reports_twice() -> None:
    result = python(PRODUCTS.format(setup=TO_STDOUT, on=True), OCTAVO_VERBOSE="1")
    assert shapes(result.stdout, "octavo INFO ") == SHAPES
    assert shapes(result.stderr, "octavo: ") == ["900x400x300"] * 2  # before and after
    off = python(PRODUCTS.format(setup=TO_STDOUT, on=False), OCTAVO_VERBOSE="1")
    assert off.stdout == "done\n"
    assert shapes(off.stderr, "octavo: ") == ["900x400x300"] * 2


def test_set_verbose_honours_the_level_of_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    layer, x = oc.QuantLinear(np.ones((8, 4), np.float32)), np.ones((2, 4), np.float32)
    with oc.set_verbose():
        with caplog.at_level("WARNING", logger="octavo"):
            layer(x)
        assert caplog.records == []
        with caplog.at_level("INFO", logger="octavo"):
            layer(x)
    assert [(r.name, r.levelname) for r in caplog.records] == [("octavo", "INFO")]
    assert caplog.records[0].getMessage().startswith("linear 2x4x8, kernel ")


INTEGERS = """
import logging, sys, numpy as np, octavo as oc
oc.set_num_threads(3)
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format='%(message)s')
def ones(*shape): return np.ones(shape, np.int64)
packed = oc.PackedInteger(ones(60, 70))
with oc.set_verbose():
    oc.matmul(ones(3, 4), ones(4, 5))
    oc.matmul(ones(300, 200), ones(200, 100))
    oc.matmul(ones(3, 0), ones(0, 5))
    oc.matmul(ones(9, 8) > 0, ones(8, 7) > 0)
    oc.matmul(ones(2, 5, 3, 4), ones(2, 5, 4, 6))
    oc.matmul(ones(50, 40, 30), ones(50, 30, 20))
    oc.matmul(ones(4, 300, 300), ones(4, 300, 300))
    oc.matmul(ones(6, 3, 0), ones(6, 0, 6))
    oc.matmul(ones(6, 3, 4) > 0, ones(6, 4, 5) > 0)
    ones(2, 60) @ packed
    ones(200, 60) @ packed
    ones(3, 0) @ oc.PackedInteger(ones(0, 4))
    oc.matmul(ones(0, 4), ones(4, 5))
"""


@pytest.mark.slow
def test_verbose_reports_each_product_of_integers_once() -> None:
    result = python(INTEGERS)
    assert result.stderr == ""
    assert [line.partition(", ")[0] for line in result.stdout.splitlines()] == [
        "matmul 3x4x5", "matmul 300x200x100", "matmul 3x0x5", "matmul 9x8x7", "matmul stack 30x4x6",
        "matmul stack 2000x30x20", "matmul stack 1200x300x300", "matmul stack 18x0x6", "matmul stack 18x4x5",
        "packed matmul 2x60x70", "packed matmul 200x60x70", "packed matmul 3x0x4",
    ]  # fmt: skip
    to_stderr = python(INTEGERS.replace("with oc.set_verbose():", "if True:"), OCTAVO_VERBOSE="1").stderr
    lines = [LINE.fullmatch(line) for line in to_stderr.splitlines()]
    assert None not in lines, to_stderr
    assert [f"{m['what']} {m['shape']}" for m in lines if m] == [
        line.partition(", ")[0] for line in result.stdout.splitlines()
    ]


def test_set_verbose_product_stands_though_the_log_handler_raises() -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(f"no room for {record.name}'s line")

    def interrupt(record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt

    layer, x = oc.QuantLinear(np.ones((8, 4), np.float32)), np.ones((2, 4), np.float32)
    logger, handler, expected = logging.getLogger("octavo"), Full(), layer(x)
    unraisable: list[sys.UnraisableHookArgs] = []
    logger.addHandler(handler)
    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with oc.set_verbose():
            logger.setLevel("INFO")
            np.testing.assert_array_equal(layer(x), expected)
            np.testing.assert_array_equal(oc.matmul([[1, 2]], [[3], [4]]), [[11]])
            handler.addFilter(interrupt)
            with pytest.raises(KeyboardInterrupt):
                layer(x)
    finally:
        sys.unraisablehook = before
        logger.setLevel("NOTSET")
        logger.removeHandler(handler)
    assert [str(u.exc_value) for u in unraisable] == ["no room for octavo's line"] * 2

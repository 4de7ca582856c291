"""What runs: kernels, the CPU they run on, threads, the memory kept for results, lines about each product.

The functions that set something act at once, for the whole process. They return a context manager that restores the
previous value:

    octavo.set_num_threads(2)
    with octavo.set_num_threads(1):
        ...  # one thread
    ...  # two
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from octavo import _core
from octavo._util.tables import Tabular

_VERBOSE_OFF, _VERBOSE_KEPT = 0, 2  # Verbosity in csrc/gemm/verbose.h


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """A kernel of this build.

    Attributes:
        name: as `use_kernel` and ``OCTAVO_ISA`` take it.
        missing: the CPU features that it needs and this machine lacks.
        active: whether it is the one in use. Unless it is forced, products of fewer than `min_rows` rows go to the
            next kernel that is supported.
        min_rows: the fewest rows for which it is chosen with int8 weights; see `set_min_rows`. `min_rows_by_weights`
            has the numbers for other weights.
    """

    name: str
    missing: tuple[str, ...]
    active: bool
    min_rows: int = 1

    @property
    def supported(self) -> bool:
        """Whether it runs here."""
        return not self.missing

    @property
    def min_rows_by_weights(self) -> dict[str, int]:
        """From how many rows on it is chosen, by the weights that it multiplies: ``"int8"``, ``"int8 up to 1 MB"``,
        ``"int4"`` and ``"grouped"`` (codes of GGUF files and of `GroupedCodes`). As it is now, whatever `set_min_rows`
        has changed since; empty for a kernel that this build does not have.
        """
        if self.name not in _core.kernel_names():
            return {}
        names = ("int8", "int8 up to 1 MB", "int4", "grouped")
        return {name: rows for name, rows in zip(names, _core.min_rows(self.name), strict=True) if rows is not None}


class _Kernels(Tabular, tuple[KernelInfo, ...]):
    """A tuple that shows itself as a table."""

    __slots__ = ()

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        rows = [
            (
                k.name,
                "yes" if k.supported else f"lacks {', '.join(k.missing)}",
                "yes" if k.active else "",
                _rows_text(k),
            )
            for k in self
        ]
        return ("kernel", "runs here", "in use", "from rows"), rows

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)


def _rows_text(kernel: KernelInfo) -> str:
    """From how many rows on: the number for int8 weights, and those of other weights that have another."""
    rows = kernel.min_rows_by_weights
    int8 = rows.pop("int8", kernel.min_rows)
    others = [f"{name}: {n}" for name, n in rows.items() if n != int8]
    return f"{int8} ({', '.join(others)})" if others else f"{int8}"


@dataclass(frozen=True, slots=True, repr=False)
class CpuInfo(Tabular):
    """The CPU as the kernels see it. A feature counts where the CPU and the operating system both offer it.

    Attributes:
        brand: the CPU's own name for itself.
        architecture: as `platform.machine` gives it.
        features: for each feature that a kernel may need, whether this CPU has it.
        cache_bytes: sizes of the data caches, by level: "l1d", "l2" (one core's part), "l3".
        cpus: how many CPUs this process may use.
    """

    brand: str
    architecture: str
    features: dict[str, bool]
    cache_bytes: dict[str, int]
    cpus: int

    def _table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        present, absent = self._by_presence()
        rows = [
            ("architecture", self.architecture), ("available", f"{self.cpus}"), ("caches", self._caches()),
            ("features", present or "none"), ("not here", absent or "none"),
        ]  # fmt: skip
        return ("CPU", self.brand), rows

    def _by_presence(self) -> tuple[str, str]:
        """The names of the features that are there, and of those that are not."""
        present, absent = (" ".join(n for n, p in self.features.items() if p is wanted) for wanted in (True, False))
        return present, absent

    def _caches(self) -> str:
        return ", ".join(f"{level.upper()} {size // 1024} KiB" for level, size in self.cache_bytes.items())


class _Setting(AbstractContextManager[None]):
    """Something that has been set. At the end of a with statement the value from before the call is put back."""

    def __init__(self, call: str, before: object, restore: Callable[[], None]) -> None:
        self._call, self._before, self._restore = call, before, restore

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def __repr__(self) -> str:
        return f"{self._call}, {self._before} before"


def kernels() -> tuple[KernelInfo, ...]:
    """The kernels of this build, best first: a tuple that shows itself as a table.

    The active one is the first that is supported, unless ``OCTAVO_ISA`` or `use_kernel` forces another.

    Raises:
        ValueError: ``OCTAVO_ISA`` names a kernel that does not exist or does not run here, or ``OCTAVO_MIN_ROWS`` is
            not a list such as ``amxint8=8``.

    Example:
        >>> import octavo as oc
        >>> oc.kernels()[-1].name
        'scalar'
        >>> sum(k.active for k in oc.kernels())
        1
    """
    active = _core.active_kernel()
    return _Kernels(
        KernelInfo(n, tuple(_core.missing_features(n)), n == active, _core.min_rows(n)[0]) for n in _core.kernel_names()
    )


def cpu_info() -> CpuInfo:
    """The CPU's name, features, the data cache sizes of one core, and how many CPUs this process may use.

    Example:
        >>> import octavo as oc
        >>> oc.cpu_info().cpus >= 1
        True
    """
    caches = {str(level): size for level, size in _core.cache_bytes().items()}
    return CpuInfo(_core.cpu_brand(), platform.machine(), _core.cpu_features(), caches, _core.available_cpus())


def use_kernel(name: str | None) -> AbstractContextManager[None]:
    """Forces a kernel for the whole process; ``None`` returns to the best one.

    Every kernel gives the same bits, so this is for tests and measurements.

    Args:
        name: of a kernel of this build; see `kernels`.

    Returns:
        A context manager, which puts the previous choice back.

    Raises:
        TypeError: name is neither a string nor None.
        ValueError: no kernel has this name, or this CPU lacks a feature that it needs (the message names it).

    Example:
        >>> import octavo as oc
        >>> with oc.use_kernel("scalar"):
        ...     [k.name for k in oc.kernels() if k.active]
        ['scalar']
    """
    if name is not None:
        _check_kernel(name)
    before = _forced_or_none()
    _core.force_kernel(name)
    return _Setting(f"use_kernel({name!r})", before, lambda: _core.force_kernel(before))


def set_min_rows(kernel: str, rows: int) -> AbstractContextManager[None]:
    """Sets the fewest rows for which a kernel is chosen; products of fewer go to the next kernel that is supported.

    The initial number was chosen by measurements and depends on the size of the weights and their number of bits,
    unless ``OCTAVO_MIN_ROWS="amxint8=8"`` sets it. Both that variable and this function apply to all weights. A forced
    kernel takes any number of rows. Every kernel gives the same bits, so this affects speed alone.

    Args:
        kernel: name of a kernel that is supported here.
        rows: 1 or more.

    Returns:
        A context manager, which puts the previous value back.

    Raises:
        TypeError: kernel is not a string, or rows is not an integer.
        ValueError: no kernel has this name, this CPU lacks a feature that it needs, or rows is below 1.

    Example:
        >>> import octavo as oc
        >>> with oc.set_min_rows("scalar", 9):
        ...     oc.kernels()[-1].min_rows
        9
    """
    _check_integer(rows, "rows", 1, 2**63 - 1)
    _check_kernel(kernel)
    before = _core.chosen_min_rows(kernel)
    _core.set_min_rows(kernel, int(rows))
    return _Setting(f"set_min_rows({kernel!r}, {rows})", before, lambda: _core.set_min_rows(kernel, before))


def _check_kernel(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a kernel is named by a string, got {type(name).__name__}")
    if name not in _core.kernel_names():
        raise ValueError(f"no kernel is named {name!r}; this build has {', '.join(_core.kernel_names())}")


def _check_integer(value: int, name: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not low <= value <= high:
        limits = f"from {low} to {high}" if high < 2**62 else f"{low} or more and below 2**63"
        raise ValueError(f"{name} must be {limits}, got {value}")


def _forced_or_none() -> str | None:
    try:
        return _core.forced_kernel()
    except ValueError:  # a bad OCTAVO_ISA: a choice in code takes its place
        return None


def set_num_threads(n: int) -> AbstractContextManager[None]:
    """Sets how many threads a call may use, the caller's included.

    The initial value is ``OCTAVO_NUM_THREADS``; or else the first number of ``OMP_NUM_THREADS``, which joblib,
    Dask and Ray set for their workers; or else the number of CPUs that affinity and the process's own control groups
    (v1 or v2) leave. Small calls use one thread in any case. See also `register_threadpoolctl`.

    Args:
        n: 1 to 4096.

    Returns:
        A context manager, which puts the previous number back.

    Raises:
        TypeError: n is not an integer.
        ValueError: n is out of range.

    Example:
        >>> import octavo as oc
        >>> with oc.set_num_threads(1):
        ...     oc.get_num_threads()
        1
    """
    _check_integer(n, "n", 1, 4096)
    try:
        before = _core.get_num_threads()
    except ValueError:  # OCTAVO_NUM_THREADS is wrong; after 0 it is read again
        before = 0
    _core.set_num_threads(int(n))
    return _Setting(f"set_num_threads({n})", before or "unset", lambda: _core.set_num_threads(before))


def register_threadpoolctl() -> None:
    """Lets `threadpoolctl` list octavo and limit its threads, as user_api "octavo".

    ``import octavo`` does this if threadpoolctl has already been imported, for example by scikit-learn. Call this
    function if threadpoolctl is imported later. Doing it again changes nothing.

    Raises:
        ImportError: threadpoolctl is not installed.

    Example:
        >>> import octavo as oc
        >>> from threadpoolctl import threadpool_limits
        >>> oc.register_threadpoolctl()
        >>> with threadpool_limits(1, user_api="octavo"):
        ...     oc.get_num_threads()
        1
    """
    from octavo._util.threadpoolctl import register

    register()


def get_num_threads() -> int:
    """How many threads a call may use, the caller's included.

    Raises:
        ValueError: ``OCTAVO_NUM_THREADS`` is not a number from 1 to 4096.
    """
    return _core.get_num_threads()


@dataclass(frozen=True, slots=True)
class ResultPoolInfo:
    """The pool of large results: its limit, and the idle memory that it holds now for the next results."""

    max_bytes: int
    nbytes: int
    blocks: int


def result_pool() -> ResultPoolInfo:
    """The limit of the pool of large results, and what it holds.

    Raises:
        ValueError: ``OCTAVO_RESULT_POOL_BYTES`` is not a whole number.

    Example:
        >>> import octavo as oc
        >>> pool = oc.result_pool()
        >>> pool.nbytes <= pool.max_bytes
        True
    """
    return ResultPoolInfo(*_core.result_pool())


def set_result_pool(max_bytes: int) -> AbstractContextManager[None]:
    """Sets how much idle memory is kept for large results; 0 switches the pool off.

    Writing to fresh memory costs a page fault for every 4 KiB, which for a large result can take as long as computing
    it. So results of 256 KiB and more live in blocks that go back to a pool when the last view of them dies, and the
    next result of about that size takes such a block. The pool holds at most `max_bytes` of idle blocks and frees
    those first that have waited longest; blocks in use do not count. The initial limit is
    ``OCTAVO_RESULT_POOL_BYTES``, or else 128 MiB. What exceeds a new limit is freed at once. A call with ``out=`` takes
    nothing from the pool.

    Such a result is an ordinary array, except that ``flags.owndata`` is False and ``resize`` in place is refused
    (``np.resize`` and ``copy`` work). A small view of it keeps all of its memory alive, as with any array.

    Args:
        max_bytes: 0 or more. Results larger than this never come from the pool.

    Returns:
        A context manager, which puts the previous limit back. Memory that was freed stays free.

    Raises:
        TypeError: max_bytes is not an integer.
        ValueError: max_bytes is negative.

    Example:
        >>> import octavo as oc
        >>> with oc.set_result_pool(0):
        ...     oc.result_pool()
        ResultPoolInfo(max_bytes=0, nbytes=0, blocks=0)
    """
    _check_integer(max_bytes, "max_bytes", 0, 2**63 - 1)
    before = result_pool().max_bytes
    _core.set_result_pool_bytes(int(max_bytes))
    return _Setting(f"set_result_pool({max_bytes})", before, lambda: _core.set_result_pool_bytes(before))


def clear_result_pool() -> None:
    """Gives the idle memory of the pool of large results back to the system; arrays in use keep theirs.

    Example:
        >>> import octavo as oc
        >>> oc.clear_result_pool()
        >>> oc.result_pool().nbytes
        0
    """
    _core.clear_result_pool()


def set_verbose(on: bool = True) -> AbstractContextManager[None]:
    """Reports each product: what it was, its shape M x K x N, kernel, threads, blocks of work and time.

    The reports are records of level INFO of the logger "octavo". Where neither this logger nor its parents have a
    handler, they are lines on stderr, as with ``OCTAVO_VERBOSE=1``; never both.

    Args:
        on: False: report nothing, even with ``OCTAVO_VERBOSE=1``.

    Returns:
        A context manager, which puts the previous choice back.

    Raises:
        TypeError: on is not a bool.

    Example:
        >>> import numpy as np, octavo as oc
        >>> layer = oc.QuantLinear(np.ones((8, 4), np.float32))
        >>> with oc.set_verbose():  # octavo: linear 2x4x8, kernel avx2, 1 thread, 1 block of rows, 0.003 ms
        ...     y = layer(np.ones((2, 4), np.float32))
    """
    if not isinstance(on, bool):
        raise TypeError(f"on must be True or False, got {on!r}")
    before = _core.verbosity()
    _core.set_verbosity(_VERBOSE_KEPT if on else _VERBOSE_OFF)
    names = {_VERBOSE_OFF: "False", _VERBOSE_KEPT: "True"}
    return _Setting(f"set_verbose({on})", names.get(before, "OCTAVO_VERBOSE"), lambda: _core.set_verbosity(before))


def _log(line: str) -> None:
    """Reports a product; called by the compiled part, after the product, where `set_verbose` is on."""
    import logging

    logger = logging.getLogger("octavo")
    if logger.hasHandlers():
        logger.info("%s", line.removeprefix("octavo: "))
    else:
        print(line, file=sys.stderr)


def config_lines() -> list[str]:
    """The text of `show_config`, a line each: it also explains why a better kernel is not in use."""
    cpu = cpu_info()
    build = _core.build_info()
    have, lack = cpu._by_presence()
    lines = [
        f"octavo {build['version']} ({build['compiler']}), NumPy {np.__version__}, Python {platform.python_version()}",
        f"CPU       {cpu.brand} ({cpu.architecture}), {cpu.cpus} available",
        f"caches    {cpu._caches()}",
        f"features  {have or 'none'}" + (f"   (not: {lack})" if lack else ""),
    ]
    if refusal := _core.feature_refusal():
        lines.append(f"          amx_int8: the CPU has it, but {refusal}")
    try:
        lines += [_kernel_line(kernel) for kernel in kernels()]
    except ValueError as error:
        lines.append(f"kernel    error: {error}")
    try:
        lines.append(f"threads   {get_num_threads()}")
    except ValueError as error:
        lines.append(f"threads   error: {error}")
    try:
        pool = result_pool()
        lines.append(f"pool      {pool.nbytes} of {pool.max_bytes} bytes held for large results")
    except ValueError as error:
        lines.append(f"pool      error: {error}")
    return lines


def _kernel_line(kernel: KernelInfo) -> str:
    if kernel.missing:
        return f"kernel    {kernel.name:12} not supported here: lacks {', '.join(kernel.missing)}"
    if not kernel.active:
        return f"kernel    {kernel.name:12} supported"
    if _core.forced_kernel() is not None:
        return f"kernel    {kernel.name:12} chosen: forced by OCTAVO_ISA or use_kernel"
    rows = f" for {_rows_text(kernel)} rows or more" if kernel.min_rows > 1 else ""
    return f"kernel    {kernel.name:12} chosen: the best that runs here{rows}"


def show_config() -> None:
    """Prints versions, CPU features, kernels (built, supported, chosen, why not a better one), threads, memory held."""
    print("\n".join(config_lines()))

"""What runs: kernels, the CPU they run on, threads, and the memory kept for results."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from octavo import _core


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """A kernel of this build. ``missing`` names the CPU features it needs and this machine lacks.

    ``active`` says that it is the one in use; products of fewer rows than its ``min_rows`` go to the next one that is
    supported, unless it is forced.
    """

    name: str
    missing: tuple[str, ...]
    active: bool
    min_rows: int = 1

    @property
    def supported(self) -> bool:
        """Whether it runs here."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The CPU as the kernels see it. A feature counts where the CPU and the operating system both offer it."""

    brand: str
    architecture: str
    features: dict[str, bool]
    cache_bytes: dict[str, int]
    cpus: int


def kernels() -> tuple[KernelInfo, ...]:
    """The kernels of this build, best first.

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
    return tuple(
        KernelInfo(n, tuple(_core.missing_features(n)), n == active, _core.min_rows(n)) for n in _core.kernel_names()
    )


def cpu_info() -> CpuInfo:
    """The CPU's name, features, the data cache sizes of one core, and how many CPUs this process may use.

    Example:
        >>> import octavo as oc
        >>> oc.cpu_info().cpus >= 1
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    caches = {str(level): size for level, size in _core.cache_bytes().items()}
    return CpuInfo(_core.cpu_brand(), platform.machine(), _core.cpu_features(), caches, cpus)


class use_kernel:  # noqa: N801 - reads as a verb, at the call and in a with statement
    """Forces a kernel by name for the whole process; ``None`` returns to the best one.

    At once when called; used as a context manager it puts the previous choice back at the end. Every kernel gives
    the same bits, so this is for tests and measurements.

    Raises:
        ValueError: no kernel has this name, or this CPU lacks a feature that it needs (the message says which).

    Example:
        >>> import octavo as oc
        >>> with oc.use_kernel("scalar"):
        ...     [k.name for k in oc.kernels() if k.active]
        ['scalar']
    """

    def __init__(self, name: str | None) -> None:
        self._previous = _forced_or_none()
        if name is not None and name not in _core.kernel_names():
            raise ValueError(f"no kernel is named {name!r}; this build has {', '.join(_core.kernel_names())}")
        _core.force_kernel(name)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _core.force_kernel(self._previous)


def set_min_rows(kernel: str, rows: int) -> None:
    """Sets the fewest rows for which a kernel is chosen; products of fewer go to the next kernel that is supported.

    It starts as measured or, in ``OCTAVO_MIN_ROWS="amxint8=8"``, as given there. A kernel that is forced takes any
    number of rows. Every kernel gives the same bits, so this is about speed alone.

    Args:
        kernel: name of a kernel that is supported here.
        rows: 1 or more.

    Raises:
        TypeError: rows is not an integer.
        ValueError: no kernel has this name, this CPU lacks a feature that it needs, or rows is below 1.

    Example:
        >>> import octavo as oc
        >>> oc.set_min_rows("scalar", 1)
        >>> oc.kernels()[-1].min_rows
        1
    """
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer):
        raise TypeError(f"rows must be an integer, got {type(rows).__name__}")
    if kernel not in _core.kernel_names():
        raise ValueError(f"no kernel is named {kernel!r}; this build has {', '.join(_core.kernel_names())}")
    if not 1 <= rows < 2**63:
        raise ValueError(f"rows must be 1 or more and below 2**63, got {rows}")
    _core.set_min_rows(kernel, int(rows))


def _forced_or_none() -> str | None:
    try:
        return _core.forced_kernel()
    except ValueError:  # a bad OCTAVO_ISA: a choice in code takes its place
        return None


def set_num_threads(n: int) -> None:
    """Sets how many threads a call may use, the caller's included.

    It starts as ``OCTAVO_NUM_THREADS``, else as the number of CPUs that affinity and cgroup quota leave. Small calls
    use one in any case.

    Args:
        n: 1 to 4096.

    Raises:
        TypeError: n is not an integer.
        ValueError: n is out of range.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an integer, got {type(n).__name__}")
    if not 1 <= n <= 4096:
        raise ValueError(f"n must be from 1 to 4096, got {n}")
    _core.set_num_threads(int(n))


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


def set_result_pool(max_bytes: int) -> None:
    """Sets how much idle memory is kept for large results; 0 switches the pool off.

    Writing to fresh memory costs a page fault for every 4 KiB, which for a large result can take as long as computing
    it. So results of 256 KiB and more live in blocks that go back to a pool when the last view of them dies, and the
    next result of about that size takes such a block. The pool holds at most `max_bytes` of idle blocks and frees the
    ones that have waited longest; blocks in use are not counted. It starts as ``OCTAVO_RESULT_POOL_BYTES``, else as
    128 MiB. What exceeds the new limit is freed at once. A call with ``out=`` takes nothing from the pool.

    Such a result is an ordinary array, but for ``flags.owndata``, which is False: ``resize`` in place is refused
    (``np.resize`` and ``copy`` work). A small view of it keeps all of its memory alive, as with any array.

    Args:
        max_bytes: 0 or more. A result larger than this never takes part.

    Raises:
        TypeError: max_bytes is not an integer.
        ValueError: max_bytes is negative.

    Example:
        >>> import octavo as oc
        >>> before = oc.result_pool().max_bytes
        >>> oc.set_result_pool(0)
        >>> oc.result_pool()
        ResultPoolInfo(max_bytes=0, nbytes=0, blocks=0)
        >>> oc.set_result_pool(before)
    """
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | np.integer):
        raise TypeError(f"max_bytes must be an integer, got {type(max_bytes).__name__}")
    if not 0 <= max_bytes < 2**63:
        raise ValueError(f"max_bytes must be 0 or more and below 2**63, got {max_bytes}")
    _core.set_result_pool_bytes(int(max_bytes))


def clear_result_pool() -> None:
    """Gives the idle memory of the pool of large results back to the system; arrays in use keep theirs.

    Example:
        >>> import octavo as oc
        >>> oc.clear_result_pool()
        >>> oc.result_pool().nbytes
        0
    """
    _core.clear_result_pool()


def config_lines() -> list[str]:
    """The text of `show_config`, a line each: it also explains why a better kernel is not in use."""
    cpu = cpu_info()
    build = _core.build_info()
    have = [name for name, present in cpu.features.items() if present]
    lack = [name for name, present in cpu.features.items() if not present]
    caches = ", ".join(f"{level.upper()} {size // 1024} KiB" for level, size in cpu.cache_bytes.items())
    lines = [
        f"octavo {build['version']} ({build['compiler']}), NumPy {np.__version__}, Python {platform.python_version()}",
        f"CPU       {cpu.brand} ({cpu.architecture}), {cpu.cpus} available",
        f"caches    {caches}",
        f"features  {' '.join(have) or 'none'}" + (f"   (not: {' '.join(lack)})" if lack else ""),
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
    rows = f" for {kernel.min_rows} rows or more" if kernel.min_rows > 1 else ""
    return f"kernel    {kernel.name:12} chosen: the best that runs here{rows}"


def show_config() -> None:
    """Prints versions, CPU features, kernels (built, supported, chosen, why not a better one), threads, memory held."""
    print("\n".join(config_lines()))

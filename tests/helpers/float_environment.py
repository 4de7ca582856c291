"""Calling with another library's float environment left behind: flush-to-zero and denormals-are-zero."""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Iterator
from contextlib import contextmanager

CAN_FLUSH = platform.machine() in ("x86_64", "AMD64") and platform.system() == "Linux"
WHY_NOT = "sets MXCSR with x86 machine code; the native tests cover other architectures"


@contextmanager
def flush_to_zero() -> Iterator[None]:
    """FTZ and DAZ set in this thread's MXCSR meanwhile."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\xae\x17\xc3")  # ldmxcsr [rdi]; ret
    load = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    load(ctypes.c_uint32(0x1F80 | 0x8040))
    try:
        yield
    finally:
        load(ctypes.c_uint32(0x1F80))

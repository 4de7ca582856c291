"""octavo as threadpoolctl sees it: a library with threads, found by the file of the compiled module."""

from __future__ import annotations

import ctypes

__all__ = ["register"]

_registered = False


def register() -> None:
    """Registers octavo's controller with threadpoolctl, once.

    Raises:
        ImportError: threadpoolctl is not installed.
    """
    global _registered
    if _registered:
        return
    try:
        import threadpoolctl
    except ImportError:
        raise ImportError("threadpoolctl is not installed: pip install threadpoolctl") from None

    class OctavoController(threadpoolctl.LibController):  # type: ignore[misc]  # it has no types
        """Gets and sets how many threads a call of octavo may use, the caller's included."""

        user_api = "octavo"
        internal_api = "octavo"
        filename_prefixes = ("_core.",)
        check_symbols = ("octavo_get_num_threads", "octavo_set_num_threads", "octavo_version")

        def get_num_threads(self) -> int:
            return int(self.dynlib.octavo_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.octavo_set_num_threads(num_threads)

        def get_version(self) -> str | None:
            if (version := getattr(self.dynlib, "octavo_version", None)) is None:
                return None  # a _core of another package: threadpoolctl makes a controller, then looks for the symbols
            version.restype = ctypes.c_char_p
            return str(version().decode())

    threadpoolctl.register(OctavoController)
    _registered = True

"""How much memory this process may use: the machine's, or less in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["memory_bytes"]


def memory_bytes(groups_of_process: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> int | None:
    """The machine's memory, or what the process's control groups allow if that is less; None: not known."""
    known = [*_machine(), *_limits(groups_of_process, mount)]
    return min(known, default=None)


def _machine() -> Iterator[int]:
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this operating system
        return


def _limits(groups_of_process: str, mount: str) -> Iterator[int]:
    """Those of the process's groups and of the groups that these are in, up to the mount.

    In a container a group may be named as the host sees it: what is not there has no limit, and the mount itself is the
    container's group.
    """
    for line in _text(groups_of_process).splitlines():  # 0::/a/b in version 2, 4:memory:/a/b in version 1
        if line.count(":") < 2:
            continue
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            place, file = mount, "memory.max"
        elif "memory" in controllers.split(","):
            place, file = f"{mount}/memory", "memory.limit_in_bytes"
        else:
            continue
        group = group.rstrip("/")
        while True:
            limit = _text(f"{place}{group}/{file}").strip()
            if limit.isascii() and limit.isdigit():  # "max" is none
                yield int(limit)
            if not group:
                break
            group = group.rpartition("/")[0]


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""

"""How much memory there is, and whether a result fits, before anything of it is allocated."""

import os
from pathlib import Path

from .errors import MemoryLimitError

SHARE = 0.9  # of what is available; the rest is left to everything else
_MEMINFO = Path("/proc/meminfo")
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_bytes():
    """Return the memory that can be had without swapping, within a container's limit; None where nobody tells."""
    found = [left for left in (_of_machine(), *(_of_container(*pair) for pair in _LIMITS)) if left is not None]
    return min(found, default=None)


def require(num_bytes, what, remedy):
    """Refuse what takes more than :data:`SHARE` of the available memory.

    Args:
        num_bytes: Its peak, an int of any size. what: Names it, with its size. remedy: What to do instead.

    Raises:
        MemoryLimitError: With both numbers.
    """
    available = available_bytes()
    if available is not None and num_bytes > SHARE * available:
        raise MemoryLimitError(
            f"{what} would take {num_bytes / 2**30:,.1f} GiB; {available / 2**30:,.1f} GiB of memory are available. {remedy}"
        )


def _of_machine():
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # not on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container(limit, used):
    """What a control group leaves; of the page cache, which counts as used there, the part that is not in use is free."""
    try:
        most = limit.read_text().strip()
        left = int(most) - int(used.read_text()) if most.isdigit() else None
    except OSError:  # no such control group here
        return None
    statistics = used.with_name("memory.stat")
    if left is not None and statistics.exists():
        left += int(dict(line.split() for line in statistics.read_text().splitlines()).get("inactive_file", "0"))
    return left

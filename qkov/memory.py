"""How much memory there is and is used, and whether a result fits, before anything of it is allocated."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Any

from .errors import MemoryLimitError, OptionError

SHARE = 0.9  # of what is available; the rest is left to everything else
_UNITS = {"": 1} | {
    prefix + unit: base ** (power + 1)
    for base, unit in ((1000, "b"), (1024, "ib"))
    for power, prefix in enumerate("kmgt")
}
_UNITS["b"] = 1
# M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h; Linux maps 65,530 regions for a process unless told otherwise.
_MALLOC_OPTIONS = {-3: 2**20, -1: 2**24, -4: 2**15}
_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def budget_bytes(value: int | str | None) -> int:
    """Read a ``memory_budget``.

    It is the most resident memory that this process may have on a CPU (Python, torch and the model included: what ``ps``
    shows); on CUDA the most that torch may have allocated on the device.

    Args:
        value: None, an int of bytes, or a string: "8GB" (10^9 bytes), "8 GiB" (2^30), "500 MB", "1.5GB", "4000000".

    Returns:
        Bytes, an int, or None where there is no budget.

    Raises:
        OptionError: For anything else, and for less than one byte.

    Example:
        >>> budget_bytes("8 GB"), budget_bytes("2GiB"), budget_bytes(10), budget_bytes(None)
        (8000000000, 2147483648, 10, None)
    """
    found: Any = value
    if isinstance(value, str) and (parts := re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", value.lower())):
        number, unit = parts.groups()
        if unit in _UNITS:
            whole, _, fraction = number.partition(".")
            found = int(whole + fraction) * _UNITS[unit] // 10 ** len(fraction)  # exact: no float on the way
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise OptionError(
            f"memory_budget={value!r}; expected None, a whole number of bytes of at least 1, or a size such as '8GB' "
            "(10^9 bytes), '8GiB' (2^30 bytes) or '500 MB'."
        )
    return found  # type: ignore[return-value]  # a number of bytes, checked above


def resident_bytes() -> int | None:
    """Return the memory that this process holds now, what ``ps`` calls RSS; None where the system does not tell."""
    if not _STATM.exists():
        return peak_resident_bytes()  # an upper bound
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int | None:
    """Return the most memory that this process has held since it began; None where the system does not tell."""
    if _STATUS.exists():  # of this program alone; ru_maxrss begins with what the parent had when it forked
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def return_what_is_freed() -> bool:
    """Have memory that is freed returned to the system at once, for the rest of the process, where its C library is glibc.

    By default glibc keeps freed blocks of up to 32 MB in a heap with holes: passes of 488 MB of tensors then took 500 to
    600 MB of resident memory, and 200 MB stayed; with tensors from 1 MiB up mapped by themselves 466 to 496, and none. A
    pass takes about 6 % longer for it. No value that is computed changes.

    Returns:
        Whether this was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    for option, value in _MALLOC_OPTIONS.items():
        library.mallopt(option, value)
    library.malloc_trim(0)
    return True


def available_bytes() -> int | None:
    """Return the memory that can be had without swapping, within a container's limit; None where nobody tells."""
    found = [left for left in (_of_machine(), *(_of_container(*pair) for pair in _LIMITS)) if left is not None]
    return min(found, default=None)


def require(num_bytes: int, what: str, remedy: str) -> None:
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


def _of_machine() -> int | None:
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # not on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container(limit: Path, used: Path) -> int | None:
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

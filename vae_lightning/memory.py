"""How much memory there is, asked before a file's numbers are believed."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN = 2**34
"""What is taken for there where the system does not say."""


def available_memory() -> int:
    """Bytes that this process can still take, as far as the system says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        try:
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            found = UNKNOWN
    try:  # a container's own bound
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        found = min(found, int(limit) - int(used))
    except (OSError, ValueError):  # none, or `max`
        pass
    return max(0, found)


def require_memory(needed: int, what: str) -> None:
    """Raises ValueError where something would not fit."""
    if needed > (there := available_memory()):
        raise ValueError(f"{what}: expected what fits into memory, got {needed:.3g} bytes, where {there:.3g} are left")

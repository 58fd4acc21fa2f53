"""What this machine can hold. Free of torch where there is no GPU to ask."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that a new process can have: what the system calls available, or less where a container limits it."""
    found = [_meminfo()]
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        found.append(int(text) - int(used.read_text()))
    return min(found)


def _meminfo() -> int:
    path = Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # no such file on macOS: all there is


def return_freed_memory() -> None:
    """Gives freed memory back to the system where the C library is glibc, which keeps it per thread otherwise.

    transformers reads and quantizes weights in threads: from 220 to 700 MB of the embedded model's loading stayed
    (junto's ``benchmarks.tuning``, 2026-11-23)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)

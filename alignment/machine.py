"""What this machine can hold. Free of torch where there is no GPU to ask."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia/version")


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


def give_back_threads() -> None:
    """Ends the OpenMP threads of the calling thread; its next parallel work starts them anew, in under a millisecond.

    libgomp has a team of threads for each thread that ever computed something. Once all teams together are more than
    the cores, a thread that waits for the next operation no longer spins but sleeps, and a decoding step of the
    embedded model with 8 rows took 95 ms instead of 65 (two cores with AVX2, 2026-11-29)."""
    if sys.platform == "linux" and hasattr(process := ctypes.CDLL(None), "omp_pause_resource_all"):
        process.omp_pause_resource_all(1)  # omp_pause_soft, OpenMP 5.0, section 3.2.44


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 are fast here. oneDNN 3.12 has them for x86 processors with these instructions; on
    others torch's own took 8.3 s for 512 rows through the embedded model's linear layers, and 1.3 s in float32 (two
    cores with AVX2, 2026-11-29). A machine that says nothing of the kind (another architecture, a GPU) is taken to be
    able."""
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), None)
    if flags is None or NVIDIA.exists():
        return True
    return {"avx512bw", "avx512vl", "avx512dq"} <= flags or "avx_ne_convert" in flags

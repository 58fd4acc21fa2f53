"""Runs a file of Python code where it can reach nothing: the inner half of ``agents.sandbox``, started as a script.

    python -I -S jail.py FOLDER INTERPRETER SETTINGS STATUS

``FOLDER`` is empty but for ``code.py``, and is where the new root is mounted, for this process alone. ``SETTINGS``
are JSON. What hinders the code from being started is written into the file descriptor ``STATUS``; nothing is written
when it runs. Ends with the code's exit status, 128 and the signal's number where a signal ended it.

Nothing here is imported by the code, which a new interpreter runs: its memory, files, environment and capabilities are
its own. Flags and system calls are those of Linux on x86-64 (man pages namespaces(7), pivot_root(2), seccomp(2)).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

NEW_NAMESPACES = {
    "user": 0x10000000, "mount": 0x00020000, "network": 0x40000000, "process": 0x20000000, "IPC": 0x08000000,
    "host name": 0x04000000,
}  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38

# What namespaces and rlimits leave: new processes and threads, so that one process's limits are those of all;
# sessions, by which it could leave the group that is killed; memory that no limit counts; sockets of families that
# are in no namespace; and doors of the kernel that no calculation needs.
DENIED = {
    "fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "unshare": 272, "setns": 308, "setsid": 112, "setpgid": 109,
    "prctl": 157, "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240,
    "socket": 41, "ptrace": 101, "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321,
    "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425,
}  # fmt: skip
X86_64 = 0xC000003E  # as the kernel's audit names it
X32 = 0x40000000  # the bit of system calls of a second ABI, which would get round the numbers above


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    done = LIBC.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    check(done, f"mounting {source} on {target}")


def leave_the_machine() -> None:
    """Own namespaces. The user is mapped to nobody, so that starting a program drops all capabilities."""
    user, group = os.geteuid(), os.getegid()
    check(LIBC.unshare(NEW_NAMESPACES["user"]), "a new user namespace")
    for name, flag in NEW_NAMESPACES.items():
        if name != "user":
            check(LIBC.unshare(flag), f"a new {name} namespace")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"65534 {user} 1")
    Path("/proc/self/gid_map").write_text(f"65534 {group} 1")


def new_root(root: str, interpreter: str, settings: dict[str, Any]) -> None:
    """The interpreter and libraries, read-only, and an empty /tmp, where the code is."""
    code = Path(root, "code.py").read_bytes()
    mount("none", "/", None, MS_REC | MS_PRIVATE)  # nothing that is mounted here is seen outside
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in (interpreter, *settings["readable"]):
        show(root, path)
    for path in settings["hidden"]:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k")
    os.mkdir(root + "/tmp")
    space = f"size={settings['disk_mb']}m,nr_inodes=1000,mode=700"
    mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, space)
    Path(root, "tmp/code.py").write_bytes(code)
    mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(root)
    check(LIBC.pivot_root(b".", b"."), "pivot_root")  # the old root now lies over the new one
    check(LIBC.umount2(b".", MNT_DETACH), "leaving the old root")
    os.chdir("/tmp")


def show(root: str, path: str) -> None:
    """Makes a file or folder of the machine readable at the same place under ``root``, by its real name and, where
    that differs, by a link."""
    real = os.path.realpath(path)
    target = root + real
    if not os.path.exists(target):
        os.makedirs(target if os.path.isdir(real) else os.path.dirname(target), exist_ok=True)
        if not os.path.isdir(real):
            Path(target).touch()
        mount(real, target, None, MS_BIND)
        kept = os.statvfs(real).f_flag & MS_NOEXEC  # a flag that the mount has may not be dropped
        mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)
    if path != real and not os.path.lexists(root + path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(real, root + path)


def limit(settings: dict[str, Any]) -> None:
    bounds = {
        resource.RLIMIT_AS: settings["memory_mb"] << 20,
        resource.RLIMIT_CPU: settings["cpu_seconds"],
        resource.RLIMIT_FSIZE: settings["disk_mb"] << 20,
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for name, most in bounds.items():
        resource.setrlimit(name, (most, most))


def deny_system_calls() -> None:
    """A seccomp filter: the calls of ``DENIED`` fail with EPERM, those of another ABI end the process."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | 1, 0x7FFF0000
    numbers = sorted(DENIED.values())
    # (code, instructions skipped if true, if false, constant)
    program = [(load, 0, 0, 4), (equal, 0, len(numbers) + 4, X86_64), (load, 0, 0, 0)]
    program.append((at_least, len(numbers) + 2, 0, X32))
    program += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(give, 0, 0, allow), (give, 0, 0, refuse), (give, 0, 0, kill)]
    packed = b"".join(struct.pack("HBBI", *one) for one in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    filter_program = struct.pack("HP", len(program), ctypes.addressof(buffer))
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")
    check(LIBC.prctl(PR_SET_SECCOMP, 2, filter_program, 0, 0), "the filter of system calls")


def die_with_parent() -> None:
    check(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "dying with the parent")


def main(root: str, interpreter: str, settings: dict[str, Any], status: int) -> int:
    os.set_inheritable(status, False)  # starting the code closes it, without a word
    try:
        leave_the_machine()
        die_with_parent()
        child = os.fork()  # the first process of its namespace: all others there end with it
        if child == 0:
            die_with_parent()
            new_root(root, interpreter, settings)
            limit(settings)
            deny_system_calls()
            os.execve(interpreter, [interpreter, *settings["options"], "code.py"], {"HOME": "/tmp", "TMPDIR": "/tmp"})
    except BaseException as error:
        os.write(status, f"{error}".encode())
        os._exit(1)
    os.close(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])))

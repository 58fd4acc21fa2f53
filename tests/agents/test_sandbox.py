"""Escapes from the sandbox, each tried for real. Where the machine refuses a sandbox they are skipped, with the
reason; that refusals refuse is tested everywhere."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from smolagents import ChatMessage, CodeAgent, MessageRole, Model

from agents.code_executor import SandboxExecutor
from agents.sandbox import Ran, check_sandbox, run_code
from agents.tools import Calculator
from alignment.errors import JuntoError, SetupError, UsageError

try:
    check_sandbox()
    REFUSED = ""
except SetupError as error:
    REFUSED = str(error)

DEAF = "for n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)"
sandboxed = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)


@sandboxed
def test_code_runs_with_the_standard_library() -> None:
    code = (
        "import decimal, hashlib, json, sqlite3, statistics, zlib\nopen('a', 'w').write('é')\nprint(open('a').read())"
    )
    assert run_code(code) == Ran("é\n", "ok")
    failed = run_code("1/0")
    assert failed.ended == "error" and failed.output.endswith("ZeroDivisionError: division by zero\n")
    assert run_code("import sys; sys.exit(3)").ended == "error"
    assert run_code("import os; os.abort()").ended == "error"
    assert run_code("\ud800").ended == "error"


@sandboxed
def test_no_network() -> None:
    """Neither a server of this machine over IP nor one over a path or an abstract name; and no other family."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        server.settimeout(0)
        local.bind("\0junto-test-sandbox")
        local.listen()
        local.settimeout(0)
        port = server.getsockname()[1]
        code = f"""
import socket
for family, address in ((2, ("127.0.0.1", {port})), (1, "\\0junto-test-sandbox"), (40, (2, {port}))):
    try:
        socket.socket(family).connect(address)
        print("connected")
    except OSError as error:
        print(error.errno)
"""
        assert "connected" not in run_code(code).output
        for listening in (server, local):
            with pytest.raises(BlockingIOError):
                listening.accept()


@sandboxed
def test_nothing_of_the_machine_is_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    monkeypatch.setenv("JUNTO_TEST_SECRET", "sesame")
    home = Path.home()
    shown = Path(sys.base_prefix).relative_to(home).parts[:1] if Path(sys.base_prefix).is_relative_to(home) else ()
    hidden = [str(path) for path in home.iterdir() if path.name not in shown]
    files = [str(secret), __file__, "/etc/passwd", "/proc/1/environ", "/proc/self/environ", "/dev/mem", "/sys/kernel"]
    code = f"""
import os
print([path for path in {[*files, *hidden]!r} if os.path.lexists(path)])
print(sorted(os.environ), os.listdir("/tmp"), os.getcwd())
"""
    assert run_code(code).output == "[]\n['HOME', 'LC_CTYPE', 'TMPDIR'] ['code.py'] /tmp\n"
    standard = os.path.dirname(os.__file__)
    for place in (tmp_path / "new", secret, Path("/new"), Path(standard, "new.py"), Path(standard, "os.py")):
        assert run_code(f"open({str(place)!r}, 'a').write('x')").ended == "error"
        assert not Path(place.parent, "new").exists() and not Path(standard, "new.py").exists()
    assert secret.read_text() == "sesame"
    assert run_code("import torch").output.endswith("No module named 'torch'\n")


@sandboxed
@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("import os, time\nos.close(1); os.close(2); time.sleep(60)", "timeout"),
        (f"import signal\n{DEAF}\nwhile True: pass", "timeout"),
        ("while True: print('x' * 1000)", "output"),
        ("x = bytearray(10**9)", "error"),
        ("import os\nwhile True: os.fork()", "error"),
        ("import threading\nwhile True: threading.Thread(target=input).start()", "error"),
        ("import subprocess\nsubprocess.run(['/bin/sh'])", "error"),
        ("open('a', 'wb').write(b'x' * 10**8)", "error"),
        ("for i in range(100000): open(str(i), 'w').close()", "error"),
        ("import os\nos.memfd_create('x')", "error"),
        ("import os\nos.setsid()", "error"),
    ],
)  # fmt: skip
def test_what_takes_too_much_is_ended(code: str, ended: str) -> None:
    ran = run_code(code, seconds=1)
    assert ran.ended == ended and len(ran.output) <= 20_000


@sandboxed
def test_there_are_no_capabilities_and_no_way_to_new_ones() -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = [
    libc.unshare(0x10000000), libc.mount(b"none", b"/", None, 32 | 4096, None), libc.umount2(b"/tmp", 2),
    libc.chroot(b"/tmp"), libc.setuid(0), libc.ptrace(16, 1, 0, 0), libc.prctl(1, 0, 0, 0, 0),
    libc.sethostname(b"x", 1),
]
print(calls)
"""
    assert run_code(code).output == f"{[-1] * 8}\n"


@sandboxed
def test_nothing_is_left_when_the_caller_is_killed(tmp_path: Path) -> None:
    """Not even what is asleep; the pipe that the code has open tells when it has ended."""
    program = "from agents.sandbox import run_code\nrun_code('import time\\ntime.sleep(300)', 300)"
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as caller:
        inner = None
        while inner is None:  # the helper, then the code's own process below it
            assert caller.poll() is None
            inner = next((p for c in children(caller.pid) for p in children(c)), None)
        caller.kill()
    gone = threading.Event()
    for _ in range(300):
        if not Path(f"/proc/{inner}").exists():
            break
        gone.wait(0.1)
    assert not Path(f"/proc/{inner}").exists()


def children(pid: int) -> list[int]:
    try:
        return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]
    except OSError:
        return []


@pytest.mark.parametrize("kind", ["user", "net", "mnt"])
def test_a_refused_namespace_is_one_sentence(kind: str) -> None:
    """The kernel's own refusal: a user namespace that allows no more namespaces of one kind."""
    if REFUSED:
        with pytest.raises(SetupError, match="does not give code a sandbox"):
            run_code("print(1)")
        pytest.skip(REFUSED)
    program = (
        "from agents.sandbox import run_code\n"
        "from alignment.errors import SetupError\n"
        "try: print(run_code('print(1)'))\n"
        "except SetupError as error: print('refused:', error)"
    )
    shell = f'echo 0 > /proc/sys/user/max_{kind}_namespaces && exec "$0" -c "$1"'
    ran = subprocess.run(["unshare", "-Ur", "sh", "-c", shell, sys.executable, program], capture_output=True, text=True)
    (line,) = ran.stdout.splitlines()
    name = {"user": "user", "net": "network", "mnt": "mount"}[kind]
    assert line.startswith("refused: this machine does not give code a sandbox") and f"a new {name} namespace" in line


# -- smolagents' code agents ------------------------------------------------------------------------------


class Scripted(Model):
    """Says what it is told to: what is tested is where its code runs."""

    def __init__(self, replies: list[str]) -> None:
        super().__init__()
        self.replies = iter(replies)

    def generate(self, messages: list[ChatMessage], **_: object) -> ChatMessage:
        return ChatMessage(MessageRole.ASSISTANT, f"<code>\n{next(self.replies)}\n</code>")


@sandboxed
def test_a_code_agent_runs_its_code_there() -> None:
    replies = ["import os\nx = os.getpid(), given\nprint('first')", "1 / 0", "final_answer({'x': x})"]
    agent = CodeAgent([], Scripted(replies), executor=SandboxExecutor(), verbosity_level=-1)
    assert agent.run("x", additional_args={"given": 7}) == {"x": [1, 7]}
    steps = agent.memory.steps[1:]
    assert "first" in steps[0].observations and "division by zero" in str(steps[1].error)


@sandboxed
def test_what_the_executor_cannot_do_is_one_sentence() -> None:
    executor = SandboxExecutor(seconds=1)
    with pytest.raises(UsageError, match="cannot call calculator"):
        CodeAgent([Calculator()], Scripted([]), executor=executor, verbosity_level=-1).run("x")
    with pytest.raises(UsageError, match="only JSON"):
        executor.send_variables({"x": object()})
    for code, words in (
        ("while True: 1", "more than 1 seconds"),
        ("import os; os._exit(0)", "without a word"),
        ("x =", "SyntaxError"),
    ):
        with pytest.raises(JuntoError, match=words):
            executor(code)
    assert executor("print('\\0[1, true]'); {1}").output == "{1}"

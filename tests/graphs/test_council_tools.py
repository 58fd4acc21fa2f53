"""Experts that call tools before they write a step: what is kept, counted and shown; code; and what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.code_executor import RunPython
from agents.sandbox import check_sandbox
from agents.thought import call_line
from alignment.engine import Engine, Request
from alignment.errors import JuntoError, SetupError, UsageError
from graphs.cli.council import print_result
from graphs.cli.main import main
from graphs.recipe import load_recipe, load_task, resolved
from graphs.report.tree_page import tree_page
from graphs.sitting import seat, sit
from graphs.tools import tools_of

TASK = "from graphs.tasks.game24 import *\nSTEP = '[0-9]{2}'\n"  # random weights write it: two digits, and more or none
TOOLS = """
from smolagents import Tool, tool

@tool
def spell(digit: int) -> str:
    \"\"\"Spells a digit.

    Args:
        digit: the digit
    \"\"\"
    return ["zero", "one", "two", "<b>three</b>\\nmore"][abs(digit) % 4]

class Unmade(Tool):
    pass
"""
RECIPE = """
name: mine
task: digits.py
council:
  rounds: 2
  max_total_tokens: 20000
  experts:
  - {name: Ada, role: base, tools: [calculator, check_arithmetic]}
  - {name: Bea, role: base, tools: ["my_tools.py:spell"], tool_calls: 2}
  - {name: Carl, role: base}
"""
ASK = ["--question", "4 7 8 8"]

try:
    check_sandbox()
    REFUSED = ""
except SetupError as error:
    REFUSED = str(error)
sandboxed = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir("/")
    for name, text in (("digits.py", TASK), ("my_tools.py", TOOLS), ("r.yaml", RECIPE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_calls_are_kept_counted_and_shown(
    folder: Path, wide_model: Path, monkeypatch: pytest.MonkeyPatch, first_calls: dict[str, Any]
) -> None:
    first_calls["Ada"] = {"name": "calculator", "arguments": {"expression": "6 * 7"}}
    first_calls["Bea"] = {"name": "spell", "arguments": {"digit": 3}}
    recipe = load_recipe(folder / "r.yaml")
    task, tools = load_task(recipe.task), tools_of(recipe.council)
    steps: dict[str, Request] = {}
    replies: dict[str, Request] = {}
    with Engine.open(wide_model, "float32") as engine:
        streams, generate = engine.streams, engine.generate

        def kept(where: dict[str, Request], work: Any) -> Any:
            return lambda rows: where.update({str(row.seed): row for row in rows}) or work(rows)

        monkeypatch.setattr(engine, "streams", kept(steps, streams))
        monkeypatch.setattr(engine, "generate", kept(replies, generate))

        def council(name: str, file: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            events: list[dict[str, Any]] = []
            context = seat(engine, task, recipe, name, tools=tools)
            return sit(context, "4 7 8 8", events.append, folder / file, name), events

        for name in map(str, range(40)):  # until somebody who calls tools writes a second step
            result, events = council(name, "threads.sqlite")
            if any(t["round"] == 2 and t["calls"] for t in result["thoughts"]):
                break
        again = council(name, "again.sqlite")[0]["thoughts"]
        written = dict(zip(replies, generate(list(replies.values())), strict=True))
    thoughts = result["thoughts"]
    for key in ("text", "status", "calls", "call_tokens"):
        assert [t[key] for t in again] == [t[key] for t in thoughts]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for thought in thoughts:
        step = steps[f"0/{name}/{thought['id']}"]
        mine = [seed for seed in replies if seed.startswith(f"{step.seed}/")]
        assert thought["call_tokens"] == sum(written[seed].tokens for seed in mine)
        assert all(replies[seed].role == step.role == "base" for seed in mine)
        assert not mine or replies[mine[0]].prefix == step.prefix
        assert len(thought["calls"]) <= len(mine) <= {"Ada": 3, "Bea": 2, "Carl": 0}[thought["expert"]]
        given = [call_line(call) for call in thought["calls"] if not call["failed"]]
        assert step.prompt[-1]["content"].partition("\nTools:\n")[2] == "\n".join(given)
    assert result["tokens"] == sum(t["tokens"] + t["call_tokens"] for t in thoughts)
    calls = [call_line(call) for t in thoughts for call in t["calls"]]
    assert {"calculator(6 * 7): 42", "spell(3): <b>three</b> more"} <= set(calls)
    assert sorted(e["text"] for e in events if e["kind"] == "call") == sorted(calls)
    page = tree_page(result)
    assert page.count('class="call"') == len(calls) and "<b>three" not in page
    screen = Console(file=io.StringIO(), width=200)
    print_result(result, screen)
    assert all(call[:20] in screen.file.getvalue() for call in calls)  # type: ignore[attr-defined]


def test_a_recipe_names_its_tools_by_whole_paths(folder: Path) -> None:
    recipe = load_recipe(folder / "r.yaml")
    assert recipe.council.experts[1].tools == [f"{folder}/my_tools.py:spell"]
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "config.yaml").write_text(resolved(recipe))
    assert load_recipe(folder / "elsewhere" / "config.yaml") == recipe


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("[calculater]", "r.yaml:8: there is no tool 'calculater'; did you mean \"calculator\"?"),
        ("[web]", "there is no tool 'web'; there are calculator, check_arithmetic, and your own as my_tools.py:name"),
        ("['my_tools.py:spel']", "my_tools.py has no smolagents Tool 'spel'; it has spell"),
        ("['my_tools.py:Unmade']", "no smolagents Tool 'Unmade'; that is a class; make one of it"),
        ("['gone.py:spell']", "there is no file"),
        ("['my_tools.py:']", "write it as"),
        ("calculator", "expected a list"),
    ],
)
def test_a_tool_that_there_is_not(folder: Path, tools: str, said: str) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("[calculator, check_arithmetic]", tools))
    with pytest.raises(UsageError) as caught:
        load_recipe(folder / "r.yaml")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "council.experts.0.code=true"], 2, "Ada would run code that a model writes (code: true); add --all"),
        (["--set", "council.experts.0.code=true", "--dry-run"], 2, "add --allow-code"),
        (["--allow-code"], 2, "no expert of this council runs code"),
        (["--set", "council.experts.0.tools=[calculator, calculator]"], 2, "two tools called 'calculator'"),
    ],
)
def test_what_the_command_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    command = ["run", "council", str(folder / "r.yaml"), "--model", "/nowhere", *ASK, *arguments]
    assert main(command) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and said in err and len(err.splitlines()) == 1
    assert main(["run", "revise", "--run", "x", *ASK, "--allow-code"]) == 2
    assert "--allow-code is for the experts of a council" in capsys.readouterr().err


def test_tools_need_a_model_that_is_loaded_here(
    folder: Path, chat_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "council", str(folder / "r.yaml"), "--model", chat_server.address, *ASK]) == 3
    err = capsys.readouterr().err
    assert "Ada and Bea would call tools, which needs a model that is loaded here" in err and err.count("\n") == 1


# -- code -------------------------------------------------------------------------------------------------


@sandboxed
def test_python_runs_in_the_sandbox() -> None:
    tool = RunPython(2.0)
    assert tool.forward("import os\nprint(os.getpid(), os.getcwd())") == "1 /tmp\n"
    with pytest.raises(JuntoError, match="the code failed: ZeroDivisionError"):
        tool.forward("1 / 0")
    with pytest.raises(JuntoError, match="it took more than 0.5 seconds"):
        RunPython(0.5).forward("while True: pass")


@sandboxed
def test_an_expert_runs_code(
    folder: Path, wide_model: Path, capsys: pytest.CaptureFixture[str], first_calls: dict[str, Any]
) -> None:
    command = ["run", "council", str(folder / "r.yaml"), "--model", str(wide_model), *ASK, "--allow-code", "--json"]
    command += ["--set", "council.experts=[{name: Ada, code: true, tool_seconds: 5, tool_calls: 1}]"]
    for code, failed, result in (("print(6 * 7)", False, "42\n"), ("1 / 0", True, "the code failed: ZeroDivision")):
        first_calls["Ada"] = {"name": "python", "arguments": {"code": code}}
        assert main(command) == 0
        calls = [call for t in json.loads(capsys.readouterr().out)["thoughts"] for call in t["calls"]]
        assert calls
        for call in calls:
            assert call["arguments"] == {"code": code} and call["failed"] == failed and result in call["result"]


@sandboxed
def test_where_the_machine_refuses_a_sandbox_the_command_refuses(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "graphs.cli",
        "run",
        "council",
        str(folder / "r.yaml"),
        "--model",
        "/nowhere",
        *ASK,
    ]
    command += ["--allow-code", "--set", "council.experts.0.code=true"]
    shell = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$0" "$@"'
    ran = subprocess.run(["unshare", "-Ur", "sh", "-c", shell, *command], capture_output=True, text=True)
    assert ran.returncode == 3 and "this machine does not give code a sandbox" in ran.stderr
    assert ran.stderr.count("\n") == 1

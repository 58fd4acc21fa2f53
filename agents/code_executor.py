"""smolagents with its code in the sandbox: code agents, ``CodeAgent([], model, executor=SandboxExecutor())``, and a
tool that runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smolagents import Tool
from smolagents.local_python_executor import CodeOutput, PythonExecutor

from agents.sandbox import Ran, check_sandbox, run_code
from alignment.errors import JuntoError, UsageError

# What stands around an agent's code in the sandbox: the value of its last expression, or what it gives to
# final_answer, is the last line that it prints, behind a character that no text has.
AROUND = """
import ast, contextlib, io, json

given = json.loads({given!r})

class Answer(BaseException):
    pass

def final_answer(answer=None):
    raise Answer(answer)

names = {{"__name__": "__main__", **given["variables"], "final_answer": final_answer}}

def run(code):
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "code", "exec"), names)
    return eval(compile(ast.Expression(last.value), "code", "eval"), names) if last else None

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for code in given["before"]:
        run(code)
final = False
try:
    value = run(given["code"])
except Answer as answer:
    value, final = answer.args[0], True
try:
    told = json.dumps([value, final])
except (TypeError, ValueError):
    told = json.dumps([repr(value), final])
print("\\0" + told)
"""


class SandboxExecutor(PythonExecutor):
    """Runs each snippet of one agent in a sandbox of its own, after those that ran without an error before it, so that
    names stay known; what takes time, or is drawn at random, takes it and is drawn again.

    Tools other than ``final_answer`` live in this process and cannot be called from there. Raises SetupError where
    this machine refuses a sandbox.
    """

    def __init__(self, seconds: float = 5.0, memory_mb: int = 256) -> None:
        check_sandbox()
        self.seconds = seconds
        self.memory_mb = memory_mb
        self.variables: dict[str, Any] = {}
        self.before: list[str] = []

    def send_tools(self, tools: Mapping[str, Any]) -> None:
        if others := sorted(set(tools) - {"final_answer"}):
            raise UsageError(f"code in the sandbox cannot call {', '.join(others)}; give such tools to another expert")

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        try:
            self.variables |= json.loads(json.dumps(dict(variables)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"only JSON can be sent into the sandbox: {error}") from error

    def __call__(self, code_action: str) -> CodeOutput:
        given = {"code": code_action, "before": self.before, "variables": self.variables}
        ran = run_code(AROUND.format(given=json.dumps(given)), self.seconds, self.memory_mb)
        logs, _, last = ran.output.rpartition("\0")
        value = _value(last) if ran.ended == "ok" else None
        if value is None:
            raise _failure(ran, self.seconds)
        output, final = value
        if not final:
            self.before.append(code_action)
        return CodeOutput(output, logs, final)


class RunPython(Tool):
    """Code of at most ``seconds``, each time in a sandbox of its own. ``check_sandbox`` tells beforehand whether this
    machine has one; where it has none, no code is run and the model reads why."""

    name = "python"
    description = "Runs Python code, with its standard library alone, and gives what the code prints."
    inputs = {"code": {"type": "string", "description": "the code, which prints what you want to know"}}
    output_type = "string"

    def __init__(self, seconds: float = 5.0) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, code: str) -> str:
        ran = run_code(code, self.seconds)
        if ran.ended != "ok":
            raise _failure(ran, self.seconds)
        return ran.output


def _failure(ran: Ran, seconds: float) -> JuntoError:
    reasons = {"timeout": f"it took more than {seconds:g} seconds", "output": "it printed too much"}
    lines = ran.output.strip().splitlines() or ["it ended without a word"]
    return JuntoError(f"the code failed: {reasons.get(ran.ended, lines[-1])}")


def _value(last: str) -> tuple[Any, bool] | None:
    """What the code's value is told by; None where it ended the interpreter before that."""
    try:
        output, final = json.loads(last)
    except (TypeError, ValueError):
        return None
    return output, bool(final)

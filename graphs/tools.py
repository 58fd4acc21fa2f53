"""The tools that a council's experts may call: those that come with Junto, a user's own, and Python in the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.config import CouncilConfig, ExpertConfig
from alignment.errors import UsageError
from graphs.modules import load_tool

if TYPE_CHECKING:  # most of a second
    from smolagents import Tool


def tools_of(config: CouncilConfig, allow_code: bool = False) -> dict[str, list[Tool]]:
    """Those of each expert that has some. Raises UsageError where an expert would run code and ``allow_code`` does not
    say so, SetupError where this machine refuses a sandbox for it."""
    coders = [expert.name for expert in config.experts if expert.code]
    if coders and not allow_code:
        raise UsageError(
            f"{' and '.join(coders)} would run code that a model writes (code: true); add --allow-code, which runs it "
            "in a sandbox, or set code: false"
        )
    if allow_code and not coders:
        raise UsageError(
            "--allow-code: no expert of this council runs code; give one of them code: true, as by "
            "--set council.experts.0.code=true"
        )
    if coders:
        from agents.sandbox import check_sandbox

        check_sandbox()
    return {expert.name: _tools(expert) for expert in config.experts if expert.tools or expert.code}


def _tools(expert: ExpertConfig) -> list[Tool]:
    from agents.code_executor import RunPython
    from agents.tool_expert import DONE
    from agents.tools import Calculator, CheckArithmetic

    own: list[Tool] = [Calculator(), CheckArithmetic()]
    known = {tool.name: tool for tool in own}
    tools = [known[given] if given in known else load_tool(given)[1] for given in expert.tools]
    if expert.code:
        tools.append(RunPython(expert.tool_seconds))
    names = [tool.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1 or name == DONE}):
        raise UsageError(f"{expert.name} cannot have two tools called {twice[0]!r}; give each a name of its own")
    return tools

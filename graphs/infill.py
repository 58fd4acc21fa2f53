"""The policy as what fills the gaps of a perturbed response (explain.perturb.Infill)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.decoding import Request
from alignment.errors import UsageError

if TYPE_CHECKING:
    from alignment.engine import Engine

_TOKENS = 32  # at most, for one gap
_ROLES = ("policy", "sft")  # the first that there is


class PolicyInfill:
    """Each gap, from left to right, becomes the line with which the policy goes on from all that stands before it.

    It writes greedily, so one text has one infill; it does not see what stands after the gap. Raises UsageError where
    the model has no policy.
    """

    def __init__(self, engine: Engine, prompt: Sequence[dict[str, str]]) -> None:
        found = [role for role in _ROLES if role in engine.roles]
        if not found:
            raise UsageError("this model has no policy that could fill gaps; choose --perturbation remove")
        self._engine, self._prompt, self._role = engine, list(prompt), found[0]
        self._written: dict[str, str] = {}
        what = {"engine": engine.fingerprint, "role": self._role, "tokens": _TOKENS, "how": "greedy line"}
        self.fingerprint: str = json.dumps(what, sort_keys=True)

    def __call__(self, pieces: list[str], which: list[int]) -> list[str]:
        lines = any("\n" in piece for piece in pieces)
        text = ""
        filled: list[str] = []
        for gap, (before, after) in enumerate(zip(pieces, pieces[1:], strict=False)):
            text += before
            line = self._line(text)
            # A unit owns the white space after it, and so does what takes its place.
            space = "\n" if text.endswith("\n") or (lines and not text) else " "
            more = bool(after) or gap + 1 < len(which)
            filled.append(line + space if line and more else line)
            text += filled[-1]
        return filled

    def _line(self, before: str) -> str:
        if before not in self._written:
            request = Request(
                self._prompt, prefix=before, role=self._role, max_tokens=_TOKENS, temperature=0.0, stop=("\n",)
            )
            self._written[before] = self._engine.generate([request])[0].text.strip()
        return self._written[before]

"""What the judges say of the last reply of a conversation: its reward, its council's lines, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage

from agents.prompt import as_prompt
from agents.thought import Thought, line
from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.run_dir import Report, RunDir
from explain.score import EngineScorer
from graphs.chat import sitting_of
from graphs.council_chat import kept
from graphs.explaining import How, explanation_of
from graphs.rewards import FunctionScorer
from graphs.turns import Context as Council


@dataclass(frozen=True)
class Judged:
    """The last reply as the reward model reads it, and, of a council, its ``result`` and its finished lines with their
    scores, the answer first."""

    prompt: list[dict[str, str]]
    text: str
    result: dict[str, Any] | None = None
    lines: tuple[tuple[str, str, float | None], ...] = ()  # expert, line, score


@dataclass(frozen=True)
class Judge:
    """Who scores: the run's ``function``, or else the reward model of ``engine``."""

    engine: Engine | None
    function: str

    def reward(self, one: Judged) -> float:
        if self.function:
            [value] = FunctionScorer(self.function).score(one.prompt, [one.text])
        else:
            assert self.engine is not None
            [value] = EngineScorer(self.engine).score(one.prompt, [one.text])
        return value

    def why(self, one: Judged, method: str, report: Report) -> list[dict[str, Any]]:
        """Explanations as JSON: of the reply, and of a council's answer against its runner-up. Raises UsageError."""
        texts = [one.text] if one.result is None else [text for _, text, _ in one.lines[:2]]
        if not texts:
            raise UsageError("the council finished no line, so there is nothing to explain; see its tree")
        if not texts[0].strip():
            raise UsageError("the last reply is empty, so there is nothing to explain")
        how = How(method=method)
        asked = [texts[:1], texts] if len(texts) > 1 else [texts]
        return [explanation_of(self.engine, self.function, one.prompt, some, how, report) for some in asked]


def judge_of(run: RunDir | None, engine: Engine | None) -> Judge:
    """Raises UsageError where nothing of the model scores."""
    function = str((run.config().get("reward") or {}).get("function") or "") if run else ""
    if not function and (engine is None or "reward" not in engine.roles):
        raise UsageError("this model has no reward model; chat with a run that has one: junto chat game24")
    return Judge(engine, function)


def judged(messages: Sequence[AnyMessage], council: Council | None, database: Path) -> Judged:
    """The last reply of ``messages``; ``database`` holds the council's sittings. Raises UsageError where nothing was
    said."""
    asked = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=None)
    replies = [m for m in messages[asked:] if isinstance(m, AIMessage)] if asked is not None else []
    if asked is None or not replies:
        raise UsageError("there is no reply yet")
    if council is None or "council" not in replies[-1].response_metadata:
        return Judged(as_prompt(list(messages[: asked + 1]), ""), replies[-1].text)
    question = messages[asked]
    sat = replies[-1].response_metadata["council"]
    result = kept(council, database, question.text, sitting_of(question)) | {"seconds": sat["seconds"]}
    prompt = council.task.prompt(result["question"], (), council.persona)
    return Judged(prompt, replies[-1].text, result, tuple(_finished(result)))


def _finished(result: dict[str, Any]) -> list[tuple[str, str, float | None]]:
    """The lines that the council finished, each once, the answer first, the others by score."""
    tree = {thought["id"]: Thought.model_validate(thought) for thought in result["thoughts"]}
    found = [(t.expert, "\n".join(line(tree, t.id)), t.score) for t in tree.values() if t.status == "final"]
    found.sort(key=lambda one: (one[1] != result["answer"], -(one[2] if one[2] is not None else float("-inf"))))
    first: dict[str, tuple[str, str, float | None]] = {}
    for one in found:
        first.setdefault(one[1], one)
    return list(first.values())

"""Who scores the texts of an evaluation: a run's reward model, or a recipe's function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.engine import Engine
from alignment.errors import SetupError, UsageError
from alignment.run_dir import RunDir
from alignment.scoring import function_scorer
from graphs.evaluation.answers import as_scored
from graphs.evaluation.config import Evaluation
from graphs.evaluation.graph import Judge
from graphs.evaluation.subject import Subject, parted
from graphs.modules import NamedFunction

Judging = tuple[Evaluation, Judge | None, Any]


@contextmanager
def judging(
    evaluation: Evaluation,
    function: NamedFunction | None,
    named: str | None,
    evaluated: Path | None,
    subject: Subject,
    runs_root: Path,
) -> Iterator[Judging]:
    """Inside, the evaluation (without the reward where nothing can judge), what scores its texts, and what that is.

    The judge is the reward model of the run that is ``named``, else the recipe's ``function``, else the reward model of
    the run that is ``evaluated``, which judges every subject: another one's has another scale. Else the subject's own.
    Raises SetupError where the named run has none, UsageError where nothing else is measured.
    """
    if evaluation.kind != "generate" or "reward" not in evaluation.measured:
        yield evaluation, None, None
        return
    if named is None and function is not None:
        about = {"function": function.name, "sha256": function.sha256}
        yield evaluation, function_scorer(function.call, function.name), about
        return
    own = RunDir.find(parted(subject.name)[0], runs_root)
    run = RunDir.open(named, runs_root).path if named else evaluated
    if run is None or not _judges(run):
        if named:
            raise SetupError(f"the run {run} has no reward model, so it cannot judge")
        run = own.path if own else None
    if run is None or not _judges(run):
        rest = [metric for metric in evaluation.measured if metric != "reward"]
        if not rest:
            raise UsageError(f"{evaluation.name} measures the reward alone; name a run that judges: --judge RUN")
        yield evaluation.model_copy(update={"metrics": rest}), None, None
        return
    if own and own.path.resolve() == run.resolve():
        yield evaluation, _score(subject.here), _told(run, subject.here)
        return
    with Engine.open(run) as engine:
        yield evaluation, _score(engine), _told(run, engine)


def _score(engine: Engine) -> Judge:
    def score(prompts: Sequence[Any], texts: Sequence[str]) -> list[float]:
        pairs = [as_scored(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        return engine.score([prompt for prompt, _ in pairs], [text for _, text in pairs])

    return score


def _told(run: Path, engine: Engine) -> dict[str, str]:
    return {"run": str(run), "reward": engine.fingerprint["adapters"]["reward"]}


def _judges(run: Path) -> bool:
    return (run / "adapters" / "reward" / "adapter.json").is_file()

"""``junto explain audit``: which surface features the reward model of a run goes by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from alignment.errors import UsageError
from alignment.run_dir import RunDir
from explain.table import Scorer
from graphs import audit as audits
from graphs.cli.output import console, printable, write_json
from graphs.cli.progress import Reporter
from graphs.report import write_report


def explain_audit(
    run: RunDir, data: Path, rows: int, probes: int, explained: int, seed: int, compute_dtype: str
) -> dict[str, Any]:
    """The audit of a file as JSON, kept in the run directory; rewards stay in the cache, so that it goes on after an
    interruption."""
    from alignment.embedded import cache_dir
    from explain.audit import audit
    from explain.audit_result import to_json

    # a system text of the data stood before every training prompt, so it stands here too
    system = (run.config().get("data") or {}).get("system") or ""
    examples, notes = audits.read_examples(data, rows, seed, system)
    with Reporter() as report, scorer_of(run, compute_dtype) as scorer:

        def progress(scored: int, total: int) -> None:
            report({"stage": "audit", "step": scored, "total": total})

        try:
            found = audit(
                scorer,
                examples,
                probes=probes,
                explained=explained,
                seed=seed,
                cache_dir=cache_dir() / "rewards",
                progress=progress,
            )
        except ValueError as error:  # explain's way of saying that it was asked something wrong
            raise UsageError(str(error)) from error
    result = {"source": data.name, **to_json(replace(found, notes=(*notes, *found.notes)))}
    audits.keep(run.path, audits.name_of(data, rows, probes, explained, seed, compute_dtype), result)
    write_report(run.path)
    return result


@contextmanager
def scorer_of(run: RunDir, compute_dtype: str) -> Iterator[Scorer]:
    """The reward function of a run's recipe, or its reward model while an engine is open."""
    from graphs.rewards import FunctionScorer

    function = str((run.config().get("reward") or {}).get("function") or "")
    if function:
        yield FunctionScorer(function)
        return
    from alignment.engine import Engine
    from explain.score import EngineScorer

    run.adapter("reward")  # said before a model is loaded
    with Engine.open(run.path, compute_dtype=compute_dtype) as engine:
        yield EngineScorer(engine)


def print_audit(found: dict[str, Any], as_json: bool, out: IO[str]) -> None:
    """The JSON itself, or the table of explain.audit_render for a terminal."""
    if as_json:
        write_json(found, out)
        return
    from explain.audit_render import terminal
    from explain.audit_result import from_json

    console(out).print(terminal(from_json(found | {"notes": [printable(note) for note in found["notes"]]})))

"""Audits of a reward model over rows of data, for ``junto explain audit`` and the gate before PPO. Free of torch."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import JuntoError
from alignment.run_dir import Report, RunDir, write_atomic
from explain.audit import Example, audit
from explain.audit_result import from_json, to_json
from explain.audit_words import describe
from explain.exploited import exploited
from explain.exploited import to_json as shifts_to_json
from explain.table import Scorer
from graphs import rows as shapes
from graphs.recipe import AuditConfig
from graphs.report import write_report
from graphs.tasks import Row, jsonl

FOLDER, GATE = "audits", "gate"  # of a run directory, and the file of the audit before PPO


def read_examples(path: Path, limit: int, seed: int, system: str = "") -> tuple[list[Example], list[str]]:
    """At most ``limit`` rows of a file of pairs, of scored answers, or of answers alone, drawn by ``seed``; and notes
    on rows that were left out.

    Rows are as in ``graphs.tasks.jsonl``; a pair may say which answer people saw first, ``"first": "chosen"`` or
    ``"rejected"``. Raises UsageError for a file that holds no such row.
    """
    rows, notes = jsonl.read(path, _row, system)
    return _drawn(examples_of(rows), limit, seed), notes


def examples_of(rows: Iterable[Row]) -> list[Example]:
    """Rows of ``TaskData.pairs``, or answers without a judgement, as examples."""
    found = []
    for row in rows:
        prompt = row["prompt"]
        if "chosen" in row:
            first = row.get("first") or "chosen"
            both = (row["chosen"], row["rejected"]) if first == "chosen" else (row["rejected"], row["chosen"])
            label = 1.0 if first == "chosen" else -1.0
            found.append(Example(prompt, both, label, ordered=row.get("first") is not None))
            continue
        texts = row.get("responses") or [row["response"]]
        scores = row.get("scores") or [row.get("score")] * len(texts)
        found += [Example(prompt, (text,), score) for text, score in zip(texts, scores, strict=True)]
    return found


def sample(rows: Sequence[Row], limit: int, seed: int) -> list[Example]:
    """At most ``limit`` examples of a task's pairs, drawn by ``seed``."""
    return _drawn(examples_of(rows), limit, seed)


def keep(run: Path, name: str, found: dict[str, Any]) -> Path:
    """Writes a result where the run's report finds it."""
    path = run / FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def gate(scorer: Scorer, rows: Sequence[Row], config: AuditConfig, seed: int, run: RunDir, report: Report) -> None:
    """The stage between reward model and PPO: audits held-out rows, keeps what was found, and says it.

    Rewards are kept in the run's checkpoints meanwhile, so that a killed stage goes on.
    """
    began = time.monotonic()
    run.set_stage("audit", state="running")
    examples = sample(rows, config.pairs, seed)
    scored = run.path / "checkpoints" / "audit"
    if examples:

        def progress(done: int, total: int) -> None:
            report({"stage": "audit", "step": done, "total": total, "metrics": {}})

        try:
            found = audit(
                scorer,
                examples,
                probes=config.probes,
                explained=config.explained,
                seed=seed,
                cache_dir=scored,
                progress=progress,
            )
        except ValueError as error:
            raise JuntoError(f"the audit of the reward model failed: {error}") from error
        keep(run.path, GATE, to_json(found))
        said, alarms = describe(found), [finding.feature for finding in found.alarms]
    else:
        said, alarms = ["There are no held-out pairs, so the reward was not audited."], []
    results = {"alarms": ", ".join(alarms), "audited": len(examples)}
    done = {"step": len(examples), "total": len(examples), "seconds": round(time.monotonic() - began, 1)}
    run.set_stage("audit", state="done", results=results, notes=said, **done)
    shutil.rmtree(scored, ignore_errors=True)
    report({"stage": "audit", "step": 1, "total": 1, "metrics": {}, "done": True, "message": said[0]})


def refuse_alarms(run: RunDir) -> None:
    """Raises JuntoError where the gate has raised an alarm."""
    if alarms := run.results("audit").get("alarms"):
        write_report(run.path)
        raise JuntoError(
            f"the audit raises an alarm (the reward goes by {alarms}; see {run.path / 'report.html'}) and "
            "the recipe says audit: stop; train the reward model on other data with --fresh, or go on with "
            "--set audit=warn"
        )


def compare_policy(run: RunDir) -> None:
    """What the policy made more of than the SFT model, on the held-out samples of a run, for its report."""
    rows = {(row["arm"], row["id"]): row["text"] for row in run.samples() if row["stage"] == "evaluate"}
    both = [(text, rows["policy", name]) for (arm, name), text in rows.items() if arm == "sft"]
    kept = run.path / FOLDER / f"{GATE}.json"
    found = from_json(json.loads(kept.read_text(encoding="utf-8"))) if kept.is_file() else None
    shifts = exploited([before for before, _ in both], [after for _, after in both], found)
    keep(run.path, "policy", shifts_to_json(shifts, len(both)))


def name_of(path: Path, *settings: Any) -> str:
    """A file name for the audit of one file with these settings."""
    digest = hashlib.sha256(json.dumps([str(path.resolve()), *settings]).encode()).hexdigest()[:8]
    return f"{path.name.split('.')[0][:40] or 'data'}-{digest}"


def _drawn(examples: list[Example], limit: int, seed: int) -> list[Example]:
    if len(examples) <= limit:
        return examples
    kept = sorted(random.Random(f"{seed}/audit").sample(range(len(examples)), limit))
    return [examples[i] for i in kept]


def _row(value: Any) -> Row:
    """A row of a file; an answer alone is one of instructions, a plain text or a response without a score."""
    if not isinstance(value, dict) or {"chosen", "rejected", "score"} & value.keys():
        row = shapes.preference(value)
        first = value.get("first")
        if "chosen" in row and first is not None:
            if first not in ("chosen", "rejected"):
                raise ValueError('"first" is neither "chosen" nor "rejected"; expected the answer that was shown first')
            row["first"] = first
        return row
    if "text" in value or "response" in value:
        scored = shapes.preference({**value, "score": 0})
        return {"prompt": scored["prompt"], "response": scored["response"]}
    row = shapes.instruction(value)
    return {"prompt": row["prompt"], "response": row["completion"]}

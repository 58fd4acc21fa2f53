"""Scores of samples that are on disk already, by other metrics or another way to find the answer in a text."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from alignment.errors import UsageError
from alignment.run_dir import to_jsonl, write_atomic
from graphs.evaluation.compare import Finished
from graphs.evaluation.config import SCORING, load_evaluation
from graphs.evaluation.measures import aggregated, scored

JUDGED = ("reward", "solved")  # what is not found in the samples alone


def rescore(finished: Finished, assignments: Sequence[str]) -> None:
    """Writes scores and results anew; rewards, and what a recipe's task found, stay as they are. Raises UsageError for
    a change of what decides the samples."""
    if finished.parts:
        raise UsageError("several evaluations together have no scores of their own; name one of them")
    for assignment in assignments:
        key = assignment.partition("=")[0].strip().split(".")[0]
        if key not in SCORING:
            raise UsageError(f"--set {assignment}: the samples hang on {key}; run the evaluation with it")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "evaluation.yaml"
        written.write_text(yaml.safe_dump(finished.about["evaluation"]), encoding="utf-8")
        evaluation = load_evaluation(written, assignments)
    items, samples = finished.rows("items"), finished.rows("samples")
    by_id = {item["id"]: item for item in items}
    before = {(row["id"], row["sample"]): row for row in finished.rows("scores")}
    alone = evaluation.model_copy(update={"metrics": [m for m in evaluation.measured if m not in JUDGED]})
    scores = []
    for sample in samples:
        own = {"id": sample["id"], "sample": sample["sample"]}
        judged = before.get((sample["id"], sample["sample"]), {})
        found = scored(alone, by_id[sample["id"]], sample) if alone.metrics else {}
        scores.append(own | found | {key: judged[key] for key in JUDGED if key in judged})
    results = aggregated(evaluation, items, samples, scores)
    about = finished.about | {"evaluation": evaluation.model_dump(mode="json")}
    kept = {key: finished.results[key] for key in ("asked", "complete") if key in finished.results}
    write_atomic(finished.path / "evaluation.json", json.dumps(about, indent=1) + "\n")
    write_atomic(finished.path / "scores.jsonl", to_jsonl(scores))
    write_atomic(finished.path / "results.json", json.dumps(results | kept, indent=1) + "\n")

"""Why the judge prefers one model's answer to another's, where it does so most; kept beside the samples."""

from __future__ import annotations

import json
from collections.abc import Callable

from alignment.embedded import cache_dir
from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.run_dir import write_atomic
from explain import explain
from explain.result import to_json
from explain.score import EngineScorer
from graphs.evaluation.compare import Finished, same_judge
from graphs.tasks import Row


def disagreements(first: Finished, second: Finished, count: int) -> list[tuple[Row, str, str]]:
    """Items with the better and the worse answer of the two, the largest differences in reward first; none where one
    of them is empty or both are the same."""
    items = {item["id"]: item for item in second.rows("items")}
    mine, others = _judged(first), _judged(second)
    found: list[tuple[float, str, str, str]] = []
    for key in mine.keys() & others.keys():
        (worse, text), (better, other) = sorted((mine[key], others[key]))
        if text and other and text != other:
            found.append((worse - better, key[0], other, text))
    return [(items[name], better, worse) for _, name, better, worse in sorted(found)[:count]]


def _judged(one: Finished) -> dict[tuple[str, int], tuple[float, str]]:
    """Of each sample its reward and its text without the space around it."""
    texts = {(row["id"], row["sample"]): str(row.get("text") or "").strip() for row in one.rows("samples")}
    scores = one.rows("scores")
    return {(r["id"], r["sample"]): (r["reward"], texts[r["id"], r["sample"]]) for r in scores if "reward" in r}


def explain_disagreements(first: Finished, second: Finished, count: int, tell: Callable[[str], None]) -> None:
    """Explains the largest ones by the judge that scored both, into ``explanations/`` of the second. Raises UsageError
    where no run's reward model has judged both."""
    if second.parts:
        raise UsageError("several evaluations together are not explained; name one of them")
    judge = second.about.get("judge")
    if not isinstance(judge, dict) or "run" not in judge or not same_judge(judge, first.about.get("judge")):
        raise UsageError(f"{first.name} and {second.name} were not scored by the reward model of one run")
    chosen = disagreements(first, second, count)
    folder = second.path / "explanations"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    with Engine.open(judge["run"], compute_dtype="float32") as engine:
        scorer = EngineScorer(engine)
        for number, (item, better, worse) in enumerate(chosen, 1):
            tell(f"explaining {number} of {len(chosen)}: {item['id']}")
            rewards = cache_dir() / "rewards"
            found = explain(scorer, item["prompt"], better, rejected=worse, method="all", cache_dir=rewards)
            write_atomic(folder / f"{number:02}-{item['id']}.json", json.dumps(to_json(found), indent=1) + "\n")

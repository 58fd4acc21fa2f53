"""Finished evaluations: those that there are, and the paired difference between two of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import SetupError, UsageError
from alignment.run_dir import read_rows
from alignment.statistics import bootstrap, paired_bootstrap, paired_wilson
from alignment.text_metrics import paired_corpus
from alignment.win_rate import at_equal_length, preferences, win_rate
from graphs.evaluation.config import Evaluation
from graphs.evaluation.measures import (
    CORPUS,
    RIGHT_OR_WRONG,
    aggregated,
    by_item,
    corpus_statistics,
    counted_by,
    pass_at,
)
from graphs.tasks import Row

Z = 1.959964 + 0.841621  # two-sided 5 %, power 80 %
DIFFERING = 0.3  # share of the items on which two models differ; of like models about so many


@dataclass(frozen=True)
class Finished:
    """One evaluation on disk, or ``parts`` of it by several seeds as one."""

    path: Path
    about: dict[str, Any]
    results: dict[str, Any]
    parts: tuple[Finished, ...] = ()

    @property
    def name(self) -> str:
        return "+".join(f"{one.path.parent.name}/{one.path.name}" for one in self.parts or (self,))

    def rows(self, what: str) -> list[Row]:
        """Those of items, samples or scores. Of several parts the samples of an item are numbered on."""
        if not self.parts:
            return read_rows(self.path / f"{what}.jsonl")
        of_each = [one.rows(what) for one in self.parts]
        if what == "items":
            return list({row["id"]: row for rows in of_each for row in rows}.values())
        per_item = int(self.about["evaluation"].get("samples", 1))
        return [
            row | {"sample": row["sample"] + number * per_item} for number, rows in enumerate(of_each) for row in rows
        ]

    def scored_samples(self) -> list[Row]:
        """Those of the last command: others may be kept beside them, of items that it did not ask."""
        scored = {(row["id"], row["sample"]) for row in self.rows("scores")}
        return [row for row in self.rows("samples") if (row["id"], row["sample"]) in scored]


def together(parts: Sequence[Finished]) -> Finished:
    """Evaluations of written texts by several seeds, or of several trainings, as one, as if every item had as many more
    samples. Raises UsageError for what was not asked or measured alike, and for one that is there twice."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({one.path.resolve() for one in parts}) < len(parts):
        raise UsageError(f"{first.name} is named twice; what is put together are evaluations by different seeds")
    # one of an earlier version lacks settings that have come since
    evaluation, *others = (Evaluation.model_validate(one.about["evaluation"]) for one in parts)
    for other, asked_of_it in zip(parts[1:], others, strict=True):
        if asked_of_it != evaluation:
            raise UsageError(f"{other.name} and {first.name} differ in their evaluation, and cannot be put together")
        if not same_judge(first.about.get("judge"), other.about.get("judge")):
            raise UsageError(f"{other.name} and {first.name} were scored by two judges, and cannot be put together")
    if evaluation.kind != "generate":
        raise UsageError(f"{first.name}: a seed decides nothing where nothing is written, so there is one of each")
    subject = "+".join(dict.fromkeys(one.about["subject"] for one in parts))
    about = first.about | {"subject": subject, "seed": [one.about["seed"] for one in parts]}
    union = replace(first, about=about, parts=tuple(parts))
    results = aggregated(evaluation, union.rows("items"), union.scored_samples(), union.rows("scores"))
    asked = max(results["n"], *(one.results["asked"] for one in parts))
    return replace(union, results=results | {"asked": asked, "complete": all(one.results["complete"] for one in parts)})


def listed(runs_root: Path) -> list[Finished]:
    """All that have results, by evaluation, the newest last."""
    found = [read(path.parent) for path in sorted((runs_root / "evaluations").glob("*/*/results.json"))]
    return sorted(found, key=lambda one: (one.path.parent.name, one.about.get("updated", "")))


def found(name: str, runs_root: Path) -> Finished:
    """The evaluation whose folder, or ``evaluation/folder``, is or begins like ``name``; several with a plus between
    them, which differ in their seed, as one. Raises UsageError where there is none, or more than one."""
    if "+" in name and not (Path(name) / "results.json").is_file():
        return together([found(one.strip(), runs_root) for one in name.split("+")])
    if (Path(name) / "results.json").is_file():
        return read(Path(name))
    there = listed(runs_root)
    exact = [one for one in there if name in (one.name, one.path.name)]
    alike = exact or [one for one in there if one.name.startswith(name) or one.path.name.startswith(name)]
    if len(alike) == 1:
        return alike[0]
    if not alike:
        names = ", ".join(one.name for one in there) or "none yet; junto eval run makes one"
        raise UsageError(f"there is no evaluation {name!r} in {runs_root}/evaluations; there are {names}")
    raise UsageError(f"{name!r} may be {' or '.join(one.name for one in alike)}; write more of it")


def read(path: Path) -> Finished:
    """The evaluation in a folder. Raises SetupError for files that cannot be read."""
    try:
        about, results = (json.loads((path / f"{part}.json").read_text()) for part in ("evaluation", "results"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{path}: cannot be read ({error}); remove the folder, or run the evaluation again") from None
    return Finished(path, about, results)


def same_judge(one: Any, other: Any) -> bool:
    """Whether rewards of two judges, as ``evaluation.json`` names them, are on one scale: a model is its weights,
    wherever its run lies."""
    models = [judge.get("reward") if isinstance(judge, dict) else None for judge in (one, other)]
    return models[0] == models[1] if all(models) else one == other


def compared(first: Finished, second: Finished) -> dict[str, Any]:
    """Second minus first on the items that both have: of every metric that items have the paired ``difference`` with
    its interval; where texts were scored by one judge, the ``win_rate`` of the second and that at equal length. Raises
    UsageError where they have no item in common."""
    mine, other = first.rows("scores"), second.rows("scores")
    common = {row["id"] for row in mine} & {row["id"] for row in other}
    if not common:
        raise UsageError(f"{first.name} and {second.name} have no question in common; compare two of one evaluation")
    names = [key for key in dict.fromkeys(k for row in mine for k in row) if key not in ("id", "sample")]
    names = [name for name in names if any(name in row for row in other)]
    judged = same_judge(first.about.get("judge"), second.about.get("judge"))
    metrics: dict[str, Any] = {}
    for name in names:
        if name == "reward" and not judged:
            continue
        a, b = by_item(mine, name), by_item(other, name)
        ids = [one for one in a if one in b]
        if ids:
            metrics[name] = _difference(name, [a[one] for one in ids], [b[one] for one in ids])
    if "bits_per_byte" in first.results["metrics"] and (bits := _bits(first, second)):
        metrics["bits_per_byte"] = bits
    metrics |= _of_corpora(first, second)
    for name in (name for name in first.results["metrics"] if name.startswith("pass@")):
        a, b = (pass_at(rows, int(name.removeprefix("pass@"))) for rows in (mine, other))
        same = name in second.results["metrics"] and counted_by(mine) == counted_by(other)
        if same and (ids := [one for one in a if one in b]):
            metrics[name] = _difference(name, [a[one] for one in ids], [b[one] for one in ids])
    compared: dict[str, Any] = {
        "first": first.name,
        "second": second.name,
        "subjects": [first.about["subject"], second.about["subject"]],
        "n": len(common),
        "metrics": metrics,
    }
    # sample by sample, so not one against several
    if "reward" in metrics and len(first.parts) == len(second.parts):
        compared |= _wins(first, second)
    elif "reward" in names and "reward" not in metrics:
        compared["note"] = "the rewards are of two judges, whose scales differ, and are not compared"
    return compared


def _difference(name: str, a: list[float], b: list[float]) -> dict[str, Any]:
    both = {"first": sum(a) / len(a), "second": sum(b) / len(b)}
    if (name in RIGHT_OR_WRONG or name.startswith("pass@")) and {*a, *b} <= {0.0, 1.0}:
        return both | {"difference": paired_wilson([x == 1 for x in a], [x == 1 for x in b])}
    return both | {"difference": bootstrap([y - x for x, y in zip(a, b, strict=True)])}


def _of_corpora(first: Finished, second: Finished) -> dict[str, Any]:
    """BLEU and chrF of the texts of the items that both have, where both have them with one signature."""
    found = {}
    for name in CORPUS:
        signatures = [one.results["metrics"].get(name, {}).get("signature") for one in (first, second)]
        if None in signatures or signatures[0] != signatures[1]:
            continue
        sides = []
        for one in (first, second):
            evaluation = Evaluation.model_validate(one.about["evaluation"])
            sound = [row for row in one.scored_samples() if "error" not in row]
            sides.append(corpus_statistics(evaluation, name, one.rows("items"), sound))
        if sides[0].items.keys() & sides[1].items.keys():
            found[name] = paired_corpus(sides[0], sides[1])
    return found


def _bits(first: Finished, second: Finished) -> dict[str, Any] | None:
    """Of all the documents that both have together; None where there is none."""
    a, b = ({row["id"]: row for row in one.scored_samples() if "error" not in row} for one in (first, second))
    ids = [one for one in a if one in b and a[one]["bytes"]]
    if not ids:
        return None
    size = np.array([a[one]["bytes"] for one in ids], float)
    bits = [np.array([-rows[one]["loglikelihood"] / math.log(2) for one in ids]) for rows in (a, b)]
    difference = paired_bootstrap(lambda rows: float((bits[1] - bits[0])[rows].sum() / size[rows].sum()), len(ids))
    return {
        "first": float(bits[0].sum() / size.sum()),
        "second": float(bits[1].sum() / size.sum()),
        "difference": difference,
    }


def _wins(first: Finished, second: Finished) -> dict[str, Any]:
    """Of the second, item by item: samples of one item are no items of their own. Lengths are in characters of what was
    written, since tokens are of two models, and a council's are those of the whole sitting."""
    rewards = [
        {(row["id"], row["sample"]): row["reward"] for row in one.rows("scores") if "reward" in row}
        for one in (first, second)
    ]
    texts = [
        {(row["id"], row["sample"]): row.get("text", "") for row in one.rows("samples")} for one in (first, second)
    ]
    keys = [key for key in rewards[0] if key in rewards[1]]
    wins = preferences([rewards[1][key] for key in keys], [rewards[0][key] for key in keys])
    rows = [
        {"id": key[0], "won": win, "first": len(texts[0][key]), "second": len(texts[1][key])}
        for key, win in zip(keys, wins.tolist(), strict=True)
    ]
    preferred, mine, other = (list(by_item(rows, name).values()) for name in ("won", "first", "second"))
    found: dict[str, Any] = {"win_rate": win_rate(preferred)}
    controlled, why_not = at_equal_length(preferred, other, mine)
    if controlled is None:
        return found | {"note": f"the win rate at equal length cannot be told from these items{why_not}"}
    return found | {"win_rate_at_equal_length": controlled}


def detectable(items: int, differing: float = DIFFERING) -> float:
    """The smallest difference between two shares of right answers to the same ``items`` questions that a paired test at
    5 % finds with probability 0.8, where the answers differ on so many of the questions: z sqrt(differing / n) (Connor
    1987, Biometrics 43:207, without the term of second order)."""
    return min(1.0, Z * math.sqrt(differing / items))

"""Reward models on public data, with the embedded model: ``python -m benchmarks.reward [--json]``.

- hh-rlhf (Bai et al. 2022, arXiv 2204.05862): 2,000 pairs of the harmless-base test file to learn from, the rest held
  out; beside chance, the longer or shorter answer, and a bag of words.
- vader-gt (Hutto and Gilbert 2014): the mean rating of twenty people, -4 to 4, of 4,200 tweets; beside the mean and a
  ridge regression on a bag of words.

The held-out parts choose nothing: settings are the defaults of a recipe, budgets are what two cores read in about 25
minutes. Run again after an interruption, it goes on. The data are looked for in JUNTO_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from alignment.config import BackboneConfig, RewardConfig
from alignment.reward_metrics import pair_results, score_results
from alignment.run_dir import RunDir
from graphs.rows import key_of, preference

Row = dict[str, Any]

DATA = Path(os.environ.get("JUNTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
TRAIN_PAIRS = 2000
# not in 4 bit, whose weights are unpacked for every batch: what counts here is time
BACKBONE = BackboneConfig(quantization="none")
PAIRS = RewardConfig(loss="bradley_terry", steps=250, warmup_steps=10, max_length=192, checkpoint_every=10)
SCORES = RewardConfig(loss="regression", steps=420, batch_size=16, warmup_steps=10, max_length=128, checkpoint_every=20)


# -- data -------------------------------------------------------------------------------------------------


def hh_rlhf(path: Path) -> tuple[list[Row], list[Row], int]:
    """Pairs to learn from, pairs held out, and how many rows are malformed. Equal prompts are on one side."""
    rows, malformed = [], 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(preference(json.loads(line)) | {"source": f"{path.name}, line {number}"})
            except ValueError:  # an empty turn, or two equal answers
                malformed += 1
    rows.sort(key=lambda row: key_of(row["prompt"]))  # an order that says nothing about the rows
    train = rows[:TRAIN_PAIRS]
    seen = {key_of(row["prompt"]) for row in train}
    return train, [row for row in rows[TRAIN_PAIRS:] if key_of(row["prompt"]) not in seen], malformed


def vader(path: Path) -> tuple[list[Row], list[Row]]:
    """Tweets with their mean rating: four fifths to learn from, one fifth held out. Equal tweets count once."""
    with tarfile.open(path) as archive:
        member = archive.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt")
        assert member is not None
        lines = member.read().decode("utf-8", "replace").splitlines()
    texts = {text.strip(): float(score) for _, score, text in (line.split("\t", 2) for line in lines)}
    rows = [preference({"text": text, "score": score}) for text, score in texts.items()]
    rows.sort(key=lambda row: key_of([{"role": "assistant", "content": row["response"]}]))
    cut = len(rows) * 4 // 5
    return rows[:cut], rows[cut:]


# -- baselines --------------------------------------------------------------------------------------------


def length_baseline(train: list[Row], held_out: list[Row]) -> tuple[str, dict[str, Any]]:
    """The answer with more characters, or with fewer: whichever is right more often on the pairs to learn from."""

    def lengths(rows: list[Row], side: str) -> np.ndarray:
        return np.array([len(row[side]) for row in rows])

    longer = (lengths(train, "chosen") > lengths(train, "rejected")).mean()
    shorter = (lengths(train, "chosen") < lengths(train, "rejected")).mean()
    chosen, rejected = lengths(held_out, "chosen"), lengths(held_out, "rejected")
    sign = 1 if longer >= shorter else -1
    results = pair_results(sign * chosen, sign * rejected, [*chosen, *rejected])
    return f"the {'longer' if sign > 0 else 'shorter'} answer", results


def bag_of_words(texts: Sequence[str]) -> Any:
    """A fitted vectorizer: words and pairs of words that two texts have, 1 where a text has one."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(binary=True, ngram_range=(1, 2), min_df=2, token_pattern=r"(?u)\S+").fit(texts)


def bag_of_words_pairs(train: list[Row], held_out: list[Row]) -> dict[str, Any]:
    """Bradley-Terry, linear in the words of the answers; the penalty is chosen by cross-validation on ``train``."""
    from sklearn.linear_model import LogisticRegressionCV

    words = bag_of_words([row[side] for row in train for side in ("chosen", "rejected")])

    def features(rows: list[Row], side: str) -> Any:
        return words.transform([row[side] for row in rows])

    difference = features(train, "chosen") - features(train, "rejected")
    sign = np.where(np.arange(len(train)) % 2, 1, -1)  # the model needs both outcomes: every second pair is turned
    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 1, 11),
        cv=5,
        fit_intercept=False,
        max_iter=1000,
        scoring="accuracy",
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    model.fit(difference.multiply(sign[:, None]).tocsr(), sign)
    chosen, rejected = (features(held_out, side) @ model.coef_[0] for side in ("chosen", "rejected"))
    return pair_results(chosen, rejected, [len(row[side]) for side in ("chosen", "rejected") for row in held_out])


def ridge(train: list[Row], held_out: list[Row]) -> dict[str, Any]:
    """Ridge regression on the words of the texts; the penalty is chosen by leave-one-out on ``train``."""
    from sklearn.linear_model import RidgeCV

    words = bag_of_words([row["response"] for row in train])
    truth = np.array([row["score"] for row in train])
    model = RidgeCV(alphas=np.logspace(-1, 3, 13)).fit(words.transform([row["response"] for row in train]), truth)
    predicted = model.predict(words.transform([row["response"] for row in held_out]))
    return score_results(
        predicted, [row["score"] for row in held_out], [len(row["response"]) for row in held_out], float(truth.mean())
    )


# -- the reward models ------------------------------------------------------------------------------------


@cache
def _threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def trained(folder: Path, config: RewardConfig, train: list[Row], held_out: list[Row]) -> dict[str, Any]:
    """The held-out figures of a reward model, which is trained in ``folder`` unless that is done."""
    run = RunDir(folder)
    settings = {"name": folder.name, "seed": 0, "backbone": BACKBONE.model_dump(), "reward": config.model_dump()}
    if not (folder / "config.yaml").exists():
        run.create(json.dumps(settings), {})  # JSON is YAML
        run.set_status("running")
    elif run.config() != settings:
        raise SystemExit(f"{folder} was made with other settings; remove it or name another --folder")
    if not run.done("reward"):
        from alignment.backbone import Backbone
        from alignment.reward import train_reward
        from graphs.cli.progress import Reporter

        _threads()
        with Reporter() as report:
            train_reward(Backbone(BACKBONE), config, train, held_out, run, 0, report)
        run.set_status("done")
    stage = run.status()["stages"]["reward"]
    return stage["results"] | {"seconds": stage["seconds"], "notes": stage["notes"]}


def measure(folder: Path) -> dict[str, Any]:
    """Both tables. A data set that is not there is left out, with the reason."""
    tables: dict[str, Any] = {}
    path = DATA / "hh-rlhf" / "test.jsonl.gz"
    if path.is_file():
        train, held_out, malformed = hh_rlhf(path)
        name, by_length = length_baseline(train, held_out)
        tables["hh-rlhf"] = {
            "rows": {"train": len(train), "held_out": len(held_out), "malformed": malformed},
            "methods": {
                "majority, which is chance": {
                    "pair_accuracy": {"value": 0.5},
                    "auc": {"value": 0.5},
                    "brier": {"value": 0.25},
                },
                name: by_length,
                "bag of words, Bradley-Terry": bag_of_words_pairs(train, held_out),
                "reward model": trained(folder / "hh-rlhf", PAIRS, train, held_out),
            },
        }
    else:
        tables["hh-rlhf"] = {"skipped": f"there is no {path}; set JUNTO_DATA"}
    path = DATA / "vader-gt" / "hutto_ICWSM_2014.tar.gz"
    if path.is_file():
        train, held_out = vader(path)
        by_words = ridge(train, held_out)
        tables["vader-gt"] = {
            "rows": {"train": len(train), "held_out": len(held_out)},
            "methods": {
                "the mean": {"mae": {"value": by_words["mae_of_constant"]}},
                "bag of words, ridge": by_words,
                "reward model": trained(folder / "vader-gt", SCORES, train, held_out),
            },
        }
    else:
        tables["vader-gt"] = {"skipped": f"there is no {path}; set JUNTO_DATA"}
    return tables


# -- the table --------------------------------------------------------------------------------------------

COLUMNS = {
    "hh-rlhf": {
        "pair_accuracy": "accuracy",
        "auc": "AUC",
        "ece": "ECE",
        "brier": "Brier",
        "length_correlation": "r with length",
    },
    "vader-gt": {
        "pearson": "Pearson",
        "spearman": "Spearman",
        "mae": "mean absolute error",
        "length_correlation": "r with length",
    },
}


def cell(value: Any) -> str:
    """A figure, with its 95 % interval where it has one."""
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return f"{value:.3f}"
    bounds = f" ({value['low']:.3f} to {value['high']:.3f})" if "low" in value else ""
    return f"{value['value']:.3f}{bounds}"


def lines(tables: dict[str, Any]) -> list[str]:
    """The tables as Markdown."""
    out = []
    for name, table in tables.items():
        if "skipped" in table:
            out += [f"{name}: skipped, {table['skipped']}", ""]
            continue
        rows = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in table["rows"].items())
        columns = COLUMNS[name]
        out += [f"{name}: {rows}", "", f"| method | {' | '.join(columns.values())} |"]
        out.append("|---" * (len(columns) + 1) + "|")
        for method, figures in table["methods"].items():
            out.append(f"| {method} | {' | '.join(cell(figures.get(key)) for key in columns)} |")
        model = table["methods"]["reward model"]
        out += ["", f"reward model: {model['seconds'] / 60:.1f} min of training and evaluation", *model["notes"], ""]
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reward", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the tables")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-reward"), help="where the runs are kept")
    given = parser.parse_args(arguments)
    tables = measure(given.folder)
    if given.json:
        json.dump(tables, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(lines(tables)))


if __name__ == "__main__":
    main()

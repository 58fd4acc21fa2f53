"""Evaluation on public data, as ``junto eval`` does it: ``python -m benchmarks.public [--part PART] [--json]``.

- **pairs**: one reward model of the embedded model learns from hh-rlhf (harmless-base), PandaLM and OASST together and
  is evaluated on pairs of each that it has not seen, beside counting words, length and chance. Where several people
  judged a pair (PandaLM: three), the ceiling is how often one of them says what the two others agree on.
- **summaries**: the embedded model answers SQuALITY's questions about stories, of which it reads the beginning; ROUGE
  against four references that people wrote. Beside it as many words from the story's beginning, and from its
  sentences at random, which knows nothing of the question; and the ceiling, each person against the three others, for
  which the other arms are scored against three at a time, too.

Settings are a recipe's defaults and nothing is chosen by these figures. Pairs that are left out with their reason:
ties, and prompts of the training share. Everything is kept under ``--folder``; the same command again goes on. The data
are looked for in JUNTO_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alignment.config import RewardConfig
from alignment.embedded import embedded_folder
from alignment.rouge import rouge
from alignment.run_dir import read_rows, to_jsonl, write_atomic
from alignment.statistics import bootstrap, wilson
from benchmarks.reward import DATA, bag_of_words_pairs, cell, hh_rlhf, length_baseline, trained
from graphs.cli.progress import Reporter
from graphs.evaluation.compare import read
from graphs.evaluation.measures import sentences
from graphs.evaluation.run import Asked, run_evaluations
from graphs.rows import key_of, preference

Row = dict[str, Any]

HH_PAIRS = 1000  # of hh-rlhf's training share, so that no set is most of what is learned from
REWARD = RewardConfig(loss="bradley_terry", steps=250, warmup_steps=10, max_length=256, checkpoint_every=10)
VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
READ = (1000, 4000)  # tokens of a story; the model's window is 8192
WRITTEN = 256  # tokens of a summary; the references have 226 words in the mean
PROMPT = "{{ story }}\n\nQuestion about this story: {{ question }} Answer in one paragraph."


# -- pairs ------------------------------------------------------------------------------------------------


def pandalm(path: Path) -> tuple[list[Row], list[list[int]]]:
    """Pairs on which most of three people prefer one answer, and of every row what the three said (0 is a tie)."""
    rows, votes = [], []
    for row in json.loads(path.read_text(encoding="utf-8")):
        said = [row[f"annotator{k}"] for k in (1, 2, 3)]
        choice = next((c for c in (1, 2) if said.count(c) >= 2), None)
        if choice is None:
            continue
        try:
            pair = preference(
                {
                    "instruction": row["instruction"],
                    "input": row["input"],
                    "chosen": row[f"response{choice}"],
                    "rejected": row[f"response{3 - choice}"],
                }
            )
        except ValueError:  # an empty answer
            continue
        rows.append(pair)
        votes.append([1 if one == choice else 0 if one == 0 else -1 for one in said])
    return rows, votes


def oasst(path: Path) -> list[list[Row]]:
    """Of each tree, the pairs of ranked replies to one message, the first and the last before the others."""
    trees = []
    for tree in read_rows(path):
        pairs: list[Row] = []
        for before, replies in _ranked(tree["prompt"], []):
            order = sorted(replies, key=lambda reply: reply["rank"])
            both = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
            both.sort(key=lambda pair: pair[0]["rank"] - pair[1]["rank"])
            pairs += [
                preference({"prompt": before, "chosen": a["text"], "rejected": b["text"]}) | {"first": not i}
                for i, (a, b) in enumerate(both)
                if a["text"].strip() != b["text"].strip()
            ]
        trees.append(pairs)
    return trees


def _ranked(message: Row, before: list[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """Dialogues and the replies that people ranked, down a tree."""
    role = "user" if message["role"] == "prompter" else "assistant"
    so_far = [*before, {"role": role, "content": message["text"]}]
    replies = message.get("replies", [])
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if len(ranked) > 1:
        yield so_far, ranked
    for reply in replies:
        yield from _ranked(reply, so_far)


def by_prompt(rows: Sequence[Row]) -> list[int]:
    """An order that says nothing about the rows."""
    return sorted(range(len(rows)), key=lambda i: key_of(rows[i]["prompt"]))


def pairs_of(data: Path) -> tuple[list[Row], dict[str, list[Row]], dict[str, Any]]:
    """Pairs to learn from, held-out pairs of each set, and what is known of how far people agree."""
    train, held_out, _ = hh_rlhf(data / "hh-rlhf" / "test.jsonl.gz")
    learned, found, people = train[:HH_PAIRS], {"hh-rlhf": held_out}, {}
    rows, votes = pandalm(data / "pandalm" / "testset-v1.json")
    order = by_prompt(rows)
    cut = next(i for i in range(len(order) * 2 // 3, len(order)) if _is_new(rows, order, i))
    learned += [rows[i] for i in order[:cut]]
    found["pandalm"] = [rows[i] for i in order[cut:]]
    people["pandalm"] = agreement([votes[i] for i in order[cut:]])
    trees = [tree for tree in oasst(data / "oasst-trees" / "en_100_tree.jsonl") if tree]
    trees.sort(key=lambda tree: key_of(tree[0]["prompt"]))
    learned += [pair for tree in trees[: len(trees) // 2] for pair in tree]
    # one pair of each dialogue, the best and the worst reply: others of it would not be independent
    found["oasst"] = [pair for tree in trees[len(trees) // 2 :] for pair in tree if pair["first"]]
    seen = {key_of(row["prompt"]) for row in learned}
    assert not any(key_of(row["prompt"]) in seen for rows in found.values() for row in rows)
    return learned, found, people


def _is_new(rows: Sequence[Row], order: Sequence[int], i: int) -> bool:
    return key_of(rows[order[i]]["prompt"]) != key_of(rows[order[i - 1]]["prompt"])


def agreement(votes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Of three people how often one says what the two others agree on; a tie of theirs is no pair."""
    right = [
        own == others[0]
        for said in votes
        for k, own in enumerate(said)
        for others in [[*said[:k], *said[k + 1 :]]]
        if others[0] == others[1] != 0
    ]
    return dict(wilson(sum(right), len(right)))


def pairs(folder: Path, steps: int) -> dict[str, Any]:
    """The table of reward models."""
    learned, held_out, people = pairs_of(DATA)
    model = folder / "reward"
    # every twentieth pair is for the training's own figures: the held-out ones are for the evaluations
    own = set(range(0, len(learned), 20))
    config = REWARD.model_copy(update={"steps": steps})
    training = trained(model, config, [r for i, r in enumerate(learned) if i not in own], [learned[i] for i in own])
    names = []
    for name, rows in held_out.items():
        plain = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
        names.append(_evaluation(folder, name, plain, {"kind": "pairs"}))
    finished = _run(names, [str(model)], folder)
    tables: dict[str, Any] = {
        "learned_from": len(learned),
        "read": steps * config.batch_size,
        "seconds": training["seconds"],
    }
    for (name, rows), figures in zip(held_out.items(), finished, strict=True):
        label, by_length = length_baseline(learned, rows)
        methods = {
            "chance": {"pair_accuracy": {"value": 0.5}},
            label: by_length,
            "bag of words, Bradley-Terry": bag_of_words_pairs(learned, rows),
            "reward model": figures,
        }
        if name in people:
            methods["one of three people"] = {"pair_accuracy": people[name]}
        tables[name] = {"n": len(rows), "methods": methods}
    return tables


# -- summaries --------------------------------------------------------------------------------------------


def stories(path: Path) -> list[Row]:
    """Rows of ``story``, ``question`` and ``references``; a question's references in an order that is the file's."""
    return [
        {
            "story": row["document"],
            "question": question["question_text"],
            "references": [response["response_text"] for response in question["responses"]],
        }
        for row in read_rows(path)
        for question in row["questions"]
    ]


def beginning(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def at_random(text: str, words: int, seed: str) -> str:
    """Sentences of a text, drawn at random and in its order, until there are as many words."""
    lines = sentences(text).split("\n")
    drawn: list[int] = []
    for i in random.Random(seed).sample(range(len(lines)), len(lines)):
        if sum(len(lines[k].split()) for k in drawn) >= words:
            break
        drawn.append(i)
    return "\n".join(lines[i] for i in sorted(drawn))


def summaries(folder: Path) -> dict[str, Any]:
    """The table of summaries, F of each variant."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    rows = stories(DATA / "squality" / "dev.jsonl")
    names = []
    for length in READ:
        cut = [row | {"story": tokenizer.decode(tokenizer(row["story"])["input_ids"][:length])} for row in rows]
        settings = {"kind": "generate", "prompt": PROMPT, "target": "references", "metrics": ["rouge"]}
        names.append(_evaluation(folder, f"squality-{length}", cut, settings | {"max_tokens": WRITTEN}))
    arms: dict[str, list[str]] = {}
    for length, found in zip(READ, _run(names, ["embedded"], folder, texts=True), strict=True):
        arms[f"embedded model, reads {length:,} tokens"] = found
    words = round(np.mean([len(reference.split()) for row in rows for reference in row["references"]]))
    arms[f"first {words} words of the story"] = [beginning(row["story"], words) for row in rows]
    arms[f"{words} words at random"] = [at_random(row["story"], words, row["question"]) for row in rows]
    references = [row["references"] for row in rows]
    table = {name: scores(texts, references) for name, texts in arms.items()}
    people = [[left_out([one], own, k)[0] for k, one in enumerate(own)] for own in references]
    table["one of four people"] = {"three": _means([_mean(own) for own in people])}
    return {"n": len(rows), "words": words, "arms": table}


def scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """F of each variant against all four references, and the mean of those against three of them."""
    four = [_f(text, own) for text, own in zip(texts, references, strict=True)]
    three = [
        _mean([left_out([text], own, k)[0] for k in range(len(own))])
        for text, own in zip(texts, references, strict=True)
    ]
    return {"four": _means(four), "three": _means(three)}


def left_out(texts: Sequence[str], references: Sequence[str], k: int) -> list[dict[str, float]]:
    return [_f(text, [*references[:k], *references[k + 1 :]]) for text in texts]


def _f(text: str, references: Sequence[str]) -> dict[str, float]:
    found = rouge(sentences(text), [sentences(reference) for reference in references], VARIANTS)
    return {name: score.f for name, score in found.items()}


def _mean(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in VARIANTS}


def _means(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: bootstrap([one[name] for one in found]) for name in VARIANTS}


# -- both -------------------------------------------------------------------------------------------------


def _evaluation(folder: Path, name: str, rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The file of an evaluation and that of its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.jsonl", to_jsonl(rows))
    path = folder / f"{name}.yaml"
    write_atomic(path, yaml.safe_dump({"name": name, "data": f"{name}.jsonl"} | settings))
    return str(path)


def _run(names: Sequence[str], models: Sequence[str], folder: Path, texts: bool = False) -> list[Any]:
    """Of each evaluation the metrics that ``junto eval`` found, or the texts."""
    with Reporter() as report:
        done = [read(run.path) for run in run_evaluations(names, models, Asked(folder), report)]
    return [[row["text"] for row in one.rows("samples")] if texts else one.results["metrics"] for one in done]


def measure(folder: Path, parts: Sequence[str], steps: int) -> dict[str, Any]:
    needed = {"pairs": ("hh-rlhf", "pandalm", "oasst-trees"), "summaries": ("squality",)}
    tables: dict[str, Any] = {}
    for part in parts:
        absent = [name for name in needed[part] if not (DATA / name).is_dir()]
        make = {"pairs": partial(pairs, steps=steps), "summaries": summaries}[part]
        tables[part] = {"skipped": f"there is no {DATA / absent[0]}; set JUNTO_DATA"} if absent else make(folder)
    return tables


def lines(tables: dict[str, Any]) -> list[str]:
    """The tables as Markdown."""
    out = []
    for part, table in tables.items():
        if "skipped" in table:
            out += [f"{part}: skipped, {table['skipped']}", ""]
        elif part == "pairs":
            minutes = table["seconds"] / 60
            out += [f"learned from {table['learned_from']:,} pairs, {table['read']:,} read, in {minutes:.0f} min", ""]
            out += ["| set | method | accuracy | AUC | r with length |", "|---|---|---|---|---|"]
            for name, one in table.items():
                if not isinstance(one, dict):
                    continue
                for method, figures in one["methods"].items():
                    cells = [cell(figures.get(key)) for key in ("pair_accuracy", "auc", "length_correlation")]
                    out.append(f"| {name} ({one['n']}) | {method} | {' | '.join(cells)} |")
        else:
            out += [f"{table['n']} questions", "", f"| arm | references | {' | '.join(VARIANTS)} |"]
            out.append("|---" * (len(VARIANTS) + 2) + "|")
            for arm, of_each in table["arms"].items():
                for count, figures in of_each.items():
                    out.append(f"| {arm} | {count} | {' | '.join(cell(figures[name]) for name in VARIANTS)} |")
        out.append("")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public", description=__doc__.split("\n")[0])
    parser.add_argument("--part", action="append", choices=["pairs", "summaries"], help="one of both; or again")
    parser.add_argument("--steps", type=int, default=REWARD.steps, help="steps of 8 pairs of the reward model")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/public"), help="where all is kept")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the tables")
    given = parser.parse_args()
    tables = measure(given.folder, given.part or ["pairs", "summaries"], given.steps)
    print(json.dumps(tables, indent=1) if given.json else "\n".join(lines(tables)))


if __name__ == "__main__":
    main()

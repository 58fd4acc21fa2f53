"""Councils against what else the same compute buys: ``python -m benchmarks.council --run RUN [--run RUN] [--json]``.

All arms write with the same model at the same temperatures. Compute is the tokens that go through the model: prompts as
far as they were not in a cache, what is written, and what a judging model reads; FLOPs are two per weight and token.
Sampled lines are written once per question and seed; the arms that only choose among them (self-consistency, best-of-n,
votes weighted by a scorer, and pass@n, which knows the right one) are computed from those for every number of lines,
and compared with a council at the council's own tokens, between two numbers in proportion. Questions are those of the
validation split. Everything is kept under ``--folder`` and not computed again. Beside a run of the Game of 24 stand the
figures of ``benchmarks.game24`` on the paper's puzzles.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from agents.config import ExpertConfig
from agents.scorers import Line, Score
from agents.thought import line_grammar, vote
from alignment import prefix_tree
from alignment.batch import encode_scored
from alignment.decoding import Completion
from alignment.engine import Engine, Request
from alignment.flight import overlap
from alignment.run_dir import RunDir
from alignment.statistics import bootstrap
from benchmarks import game24
from benchmarks.kept import kept
from graphs.recipe import Recipe, load_recipe, load_task
from graphs.sitting import seat, sit
from graphs.turns import Context

SCORERS = ("random", "length", "logprob", "reward", "oracle")
LINES = 32  # in the pool of a question
ORDERS = 40  # in which they are taken, per number of lines
LEAVE_SHARE = 0.3  # of first and second steps whose score is below the threshold, the same for every scorer
TOGETHER = 8  # sittings at a time
# of every arm, whatever the run's own council is
COUNCIL = {
    "search": "sample",
    "vote": "reward",
    "distinct": True,
    "leave_refuted": False,
    "answers": None,
    "max_proposals": None,
    "max_total_tokens": 10**6,
    "seconds": None,
}
OWN = "council as its recipe has it"  # but that nobody leaves by score
PERSONAS = ("Look for factors of the target first.", "Try sums and differences first.", "Be careful with each step.")

Row = dict[str, Any]


def arms() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (scorer, changes of the council's settings). Those that are called the same but for the scorer are one
    arm of the table."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    alone = {"share": False, "rejoin": False, "leave_below": None}
    found["council alone"] = ("reward", alone)
    found["council, board of others' questions"] = ("reward", alone | {"share": True, "board": "shuffled"})
    found["council, personas"] = ("reward", alone | {"personas": True})
    for scorer in SCORERS:
        found[f"council +share/{scorer}"] = (scorer, alone | {"share": True})
        found[f"council +leave/{scorer}"] = (scorer, alone | {"leave_below": 0.0})
        both = {"share": True, "rejoin": True, "leave_below": 0.0}
        found[f"council +share +leave +rejoin/{scorer}"] = (scorer, both)
        beam = {"search": "beam", "width": 2, "proposals": 4, "share": False, "leave_below": None}
        found[f"beam, 2 of 4 proposals each/{scorer}"] = (scorer, beam)
    return found


class Recorded:
    """An engine that remembers what it was asked, to count the tokens that one sitting by itself has to read: others
    that sit at the same time, or sat before, leave more in the cache than it would find. What an arm asks that another
    has asked, in every word and by the same seed, is taken from ``written``."""

    def __init__(self, engine: Engine, written: dict[str, Completion]) -> None:
        self.engine = engine
        self.written = written
        self.asked: list[tuple[list[int], list[int]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def streams(self, requests: Sequence[Request]) -> Any:
        yield from ()  # nobody looks at the pieces
        keys = list(map(repr, requests))
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.written}
        self.written.update(zip(new, self.engine.generate(list(new.values())) if new else (), strict=True))
        found = [self.written[key] for key in keys]
        chat = self.engine.backbone.chat
        for request, done in zip(requests, found, strict=True):
            ids = chat.prompt_ids(request.prompt) + chat.text_ids(request.prefix)
            self.asked.append((ids, [*ids, *done.ids[:-1]]))
        return found

    def read(self) -> int:
        """Of every prompt what no earlier text begins with."""
        total, known = 0, []
        for ids, whole in self.asked:
            total += len(ids) - min(max((overlap(ids, one) for one in known), default=0), len(ids) - 1)
            known.append(whole)
        return total


class Bench:
    """One run's engine, task and questions."""

    def __init__(self, run: Path, count: int, engine: Engine) -> None:
        self.recipe = load_recipe(run / "config.yaml", ["council.leave_below=null"])
        self.task = load_task(self.recipe.task, run)
        self.engine = engine
        data = self.task.load(self.task.Options(**self.recipe.data), self.recipe.seed, run)
        self.questions = [row["question"] for row in data.prompts["validation"][:count]]
        self.thresholds: dict[str, float] = {}
        self.written: dict[str, Completion] = {}
        self.judged: dict[tuple[str, str], float] = {}  # by question and text

    def context(self, scorer: str, seed: int, changes: dict[str, Any]) -> Context:
        council = self.recipe.council
        plain = COUNCIL | {"rounds": council.depth or council.rounds}
        plain |= {k: v for k, v in changes.items() if k not in ("board", "personas", "leave_below")}
        if changes.get("personas"):
            experts = [
                ExpertConfig(**e.model_dump() | {"persona": PERSONAS[i % len(PERSONAS)]})
                for i, e in enumerate(council.experts)
            ]
            plain["experts"] = experts
        limit = None if changes["leave_below"] is None else self.thresholds[scorer]
        council = council.model_copy(
            update={"scorer": scorer, "leave_scorer": scorer, "seed": seed, "leave_below": limit, **plain}
        )
        recipe: Recipe = self.recipe.model_copy(update={"council": council})
        found = seat(self.engine, self.task, recipe, "benchmark")
        if changes.get("board") == "shuffled":
            found = replace(found, task=self._with_other_boards())
        return found

    def _with_other_boards(self) -> Any:
        """The task with a board of as many steps, which were written for other questions."""
        # a board holds unfinished steps
        pool = {row["question"]: [s for line in row["lines"] for s in line["steps"][:-1]] for row in self.pools}

        def prompt(question: str, board: Sequence[str] = (), persona: str = "") -> list[dict[str, str]]:
            rng = random.Random(f"{question}/{board}")
            others = [q for q in pool if q != question and pool[q]]
            return self.task.prompt(question, [rng.choice(pool[rng.choice(others)]) for _ in board], persona)

        return SimpleNamespace(**{**vars(self.task), "prompt": prompt})

    def tokens(self, texts: Sequence[str]) -> int:
        return sum(len(self.engine.backbone.chat.text_ids(text)) for text in texts)

    # -- the pool -----------------------------------------------------------------------------------------

    def pool(self, seed: int, question: str) -> Row:
        """Lines that are written whole, by the experts in turn, and every scorer's score of each."""
        c = self.context("random", seed, {"leave_below": None})
        steps = c.config.depth or c.config.rounds
        prompt = self.task.prompt(question, (), c.persona)
        requests = [
            Request(
                prompt,
                role=expert.role,
                max_tokens=steps * c.config.max_tokens_per_step,
                temperature=0.0 if k == 0 else expert.temperature,  # the first is the greedy line
                seed=f"{seed}/pool/{question}/{k}",
                grammar=line_grammar(self.task.STEP, steps),
            )
            for k in range(LINES + 1)
            for expert in [c.config.experts[k % len(c.config.experts)]]
        ]
        ending = getattr(self.task, "conclusion", lambda answer: answer.splitlines()[-1])
        lines = []
        for done in self.engine.generate(requests):
            texts = [text for text in done.text.strip().split("\n") if text]
            ended = bool(texts) and done.finish != "length" and not texts[-1].startswith("LEAVE")
            lines.append(
                {
                    "steps": texts,
                    "tokens": done.tokens,
                    "logprob": done.logprob,
                    "scores": {},
                    "ending": ending("\n".join(texts)) if ended else None,
                    "solved": bool(ended and self.task.check(question, done.text)),
                }
            )
        for scorer in SCORERS:
            score = self.context(scorer, seed, {"leave_below": None}).score
            assert score is not None
            values = iter(score(question, [one for line in lines for one in self._prefixes(line)]))
            for line in lines:
                line["scores"][scorer] = list(islice(values, len(line["steps"])))
        chat = self.engine.backbone.chat
        judged = shared_by([encode_scored(chat, prompt, "\n".join(line["steps"])) for line in lines[1:]])
        tokens = len(chat.prompt_ids(prompt))
        return {"question": question, "seed": seed, "prompt_tokens": tokens, "lines": lines, "judged": judged}

    def _prefixes(self, line: Row) -> list[Line]:
        """The line up to each of its steps. Log-probabilities are shared out by tokens: only their sum was kept."""
        found, tokens = [], 0
        for i, step in enumerate(line["steps"], 1):
            tokens += self.tokens([f"{step}\n"])
            logprob = line["logprob"] * tokens / max(line["tokens"], 1)
            found.append(Line(tuple(line["steps"][:i]), logprob, tokens, i == len(line["steps"])))
        return found

    @property
    def pools(self) -> list[Row]:
        return self._pools

    def set_pools(self, pools: list[Row]) -> None:
        """Takes the pools, and from their unfinished steps each scorer's threshold: the same share is below it."""
        self._pools = pools
        for scorer in SCORERS:
            values = sorted(v for row in pools for line in row["lines"] for v in line["scores"][scorer][:-1])
            self.thresholds[scorer] = 0.5 if scorer == "oracle" else values[int(LEAVE_SHARE * len(values))]

    # -- a sitting ----------------------------------------------------------------------------------------

    def own_sitting(self, seed: int, question: str) -> Row:
        council = self.recipe.council
        # nobody leaves by it here, and the judge's tokens are counted of one scorer
        council = council.model_copy(update={"seed": seed, "leave_scorer": council.scorer})
        recipe: Recipe = self.recipe.model_copy(update={"council": council})
        return self._sat(OWN, seat(self.engine, self.task, recipe, "benchmark"), seed, question)

    def sitting(self, name: str, seed: int, question: str) -> Row:
        scorer, changes = arms()[name]
        return self._sat(name, self.context(scorer, seed, changes), seed, question)

    def _sat(self, name: str, context: Context, seed: int, question: str) -> Row:
        scorer = context.config.scorer
        context = replace(context, thread=f"benchmark/{question}")
        judged, recorded = [0], Recorded(self.engine, self.written)
        context = replace(context, engine=recorded)
        if scorer == "reward":
            assert context.score is not None and context.leave_score is context.score
            config = context.config
            ends = config.search == "sample" and config.leave_below is None and not config.rejoin
            score = self._counted(context.score, judged, context.persona, ends)
            context = replace(context, score=score, leave_score=score)
        result = sit(context, question, lambda event: None, Path(":memory:"), None)
        written, read = result["tokens"], recorded.read()
        about = {"arm": name, "scorer": scorer, "seed": seed, "question": question, "solved": bool(result["solved"])}
        left = sum(e["status"] == "left" for e in result["experts"])
        tokens = written + read + judged[0]
        return about | {"tokens": tokens, "written": written, "read": read, "judged": judged[0], "left": left}

    def _counted(self, score: Score, judged: list[int], persona: str, ends: bool) -> Score:
        """What the reward model's forward computes: in each call the tree of prompt and lines, as ``prefix_tree``.
        ``ends``: of finished lines alone, where nothing but the vote reads a score."""

        def counted(question: str, lines: Sequence[Line]) -> list[float]:
            wanted = [i for i, line in enumerate(lines) if line.finished or not ends]
            found = [math.nan] * len(lines)
            if wanted:
                prompt, chat = self.task.prompt(question, (), persona), self.engine.backbone.chat
                judged[0] += prefix_tree.size([encode_scored(chat, prompt, lines[i].text) for i in wanted])
                keys = {i: (question, lines[i].text) for i in wanted}
                new = [i for i in wanted if keys[i] not in self.judged]
                if new:
                    values = score(question, [lines[i] for i in new])
                    self.judged.update(zip([keys[i] for i in new], values, strict=True))
                for i in wanted:
                    found[i] = self.judged[keys[i]]
            return found

        return counted


def shared_by(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of the tree that ``texts`` form: by how many of them a token is shared, and how many tokens are so."""
    through = Counter(tuple(text[:end]) for text in texts for end in range(1, len(text) + 1))
    return sorted(map(list, Counter(through.values()).items()))


def tree_tokens(shared: Sequence[Sequence[int]], count: int, drawn: int) -> float:
    """Expected tokens of the tree of ``drawn`` of ``count`` texts: one that c of them share is missing where none of
    the c is drawn, with probability C(count - c, drawn) / C(count, drawn)."""
    return sum(n * (1 - math.comb(count - c, drawn) / math.comb(count, drawn)) for c, n in shared)


def choices() -> dict[str, Callable[[Sequence[Row], str], bool]]:
    """Arms that choose among sampled lines: from the lines and a scorer whether the chosen one is right."""

    def by(how: str) -> Callable[[Sequence[Row], str], bool]:
        def chosen(lines: Sequence[Row], scorer: str) -> bool:
            stay = [line for line in lines if line["ending"] is not None]
            if not stay:
                return False
            return stay[vote([s["ending"] for s in stay], [s["scores"][scorer][-1] for s in stay], how)]["solved"]

        return chosen

    return {
        "self-consistency": by("majority"),
        "best of n": by("best"),
        "weighted self-consistency": by("reward"),
        "pass@n": lambda lines, scorer: any(line["solved"] for line in lines),
    }


def curve(pools: Sequence[Row], choose: Callable[[Sequence[Row], str], bool], scorer: str, judge: bool) -> Any:
    """Per number of lines n = 1..LINES: tokens, and accuracy of each question; means over orders and seeds."""
    questions = list(dict.fromkeys(row["question"] for row in pools))
    right = np.zeros((LINES, len(questions)))
    tokens = np.zeros(LINES)
    counts = np.zeros(len(questions))
    for row in pools:
        at = questions.index(row["question"])
        counts[at] += 1
        rng = random.Random(f"{row['seed']}/{row['question']}")
        lines = row["lines"][1:]
        for _ in range(ORDERS):
            order = rng.sample(lines, len(lines))
            for n in range(1, LINES + 1):
                right[n - 1, at] += choose(order[:n], scorer) / ORDERS
        lengths = np.array([line["tokens"] for line in lines], dtype=float)
        tokens += row["prompt_tokens"] + lengths.mean() * np.arange(1, LINES + 1)
        if judge:
            tokens += [tree_tokens(row["judged"], LINES, n) for n in range(1, LINES + 1)]
    return tokens / len(pools), right / counts


def at_tokens(tokens: Any, right: Any, wanted: float) -> Any:
    """Accuracy per question at ``wanted`` tokens, between two numbers of lines in proportion."""
    place = float(np.interp(wanted, tokens, np.arange(len(tokens))))
    low, share = int(place), place - int(place)
    return right[low] if share == 0 else (1 - share) * right[low] + share * right[low + 1]


def table(pools: Sequence[Row], sittings: Sequence[Row], task: str) -> list[Row]:
    """Rows of accuracy with its interval over questions; councils with the paired difference to self-consistency and
    to best of n (reward) at their own tokens."""
    questions = list(dict.fromkeys(row["question"] for row in pools))
    curves = {
        (name, scorer): curve(pools, choose, scorer, scorer == "reward" and name not in ("self-consistency", "pass@n"))
        for name, choose in choices().items()
        for scorer in (SCORERS if name in ("best of n", "weighted self-consistency") else ("random",))
    }
    found = []
    greedy = [np.mean([r["lines"][0]["solved"] for r in pools if r["question"] == q]) for q in questions]
    cost = float(np.mean([r["prompt_tokens"] + r["lines"][0]["tokens"] for r in pools]))
    found.append(_row(task, "greedy", "", greedy, cost))
    budget = float(np.mean([s["tokens"] for s in sittings if s["arm"] == "council alone"]))
    for (name, scorer), (tokens, right) in curves.items():
        shown = scorer if name in ("best of n", "weighted self-consistency") else ""
        row = _row(task, name, shown, at_tokens(tokens, right, budget), budget)
        found.append(row | {"lines": round(float(np.interp(budget, tokens, np.arange(1, LINES + 1))), 1)})
    for name in (OWN, *arms()):
        mine = [s for s in sittings if s["arm"] == name]
        if not mine:
            continue
        right = [np.mean([s["solved"] for s in mine if s["question"] == q]) for q in questions]
        spent = float(np.mean([s["tokens"] for s in mine]))
        row = _row(task, name.split("/")[0], mine[0]["scorer"], right, spent)
        for label, key in (("sc", ("self-consistency", "random")), ("best", ("best of n", "reward"))):
            tokens, others = curves[key]
            if tokens[0] <= spent <= tokens[-1]:  # elsewhere the lines that there are cost more, or less
                difference = bootstrap([a - b for a, b in zip(right, at_tokens(tokens, others, spent), strict=True)])
                row[f"over_{label}"] = [difference[k] for k in ("value", "low", "high")]
        found.append(row)
    return found


def _row(task: str, arm: str, scorer: str, right: Sequence[float], tokens: float) -> Row:
    interval = bootstrap(list(map(float, right)))
    about = {"task": task, "arm": arm, "scorer": scorer, "accuracy": interval["value"]}
    return about | {"low": interval["low"], "high": interval["high"], "tokens": round(tokens)}


def measure(run: Path, count: int, seeds: int, folder: Path) -> list[Row]:
    folder.mkdir(parents=True, exist_ok=True)
    with Engine.open(run) as engine:
        bench = Bench(run, count, engine)
        wanted = [(seed, question) for seed in range(seeds) for question in bench.questions]
        # without defaults: a new setting does not make another council of this one
        own = bench.recipe.council.model_dump(mode="json", exclude_defaults=True)
        about = [engine.fingerprint, own, COUNCIL, LINES]
        pools = _kept(folder / "pools.jsonl", about, wanted, ("seed", "question"), bench.pool, TOGETHER // 4)
        bench.set_pools(pools)
        own_sittings = _kept(folder / "own.jsonl", about, wanted, ("seed", "question"), bench.own_sitting, TOGETHER)
        about += [bench.thresholds, arms()]
        cells = [(name, seed, question) for name in arms() for seed, question in wanted]
        sittings = _kept(folder / "sittings.jsonl", about, cells, ("arm", "seed", "question"), bench.sitting, TOGETHER)
        flops = 2 * engine.backbone.linear_parameters
    rows = table(pools, [*own_sittings, *sittings], bench.recipe.task.rpartition(".")[2])
    return [row | {"flops": flops * row["tokens"]} for row in rows]


def _kept(
    path: Path,
    about: Any,
    wanted: Sequence[tuple[Any, ...]],
    keys: Sequence[str],
    make: Callable[..., Row],
    together: int,
) -> list[Row]:
    """A row for every one of ``wanted``; those on disk are not made again."""
    with kept(path, about) as (rows, keep), ThreadPoolExecutor(together) as threads:
        there = {tuple(row[key] for key in keys): row for row in rows}
        todo = [one for one in wanted if one not in there]
        began = time.monotonic()
        for i, row in enumerate(threads.map(lambda one: make(*one), todo), 1):
            keep(row)
            there[tuple(row[key] for key in keys)] = row
            if i % 20 == 0 or i == len(todo):
                spent = time.monotonic() - began
                left = spent / i * (len(todo) - i)
                print(f"{path.name} {i}/{len(todo)}  {spent / i:.1f} s each  {left / 60:.0f} min left", file=sys.stderr)
    return [there[one] for one in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", help="a run of any task; game24, which comes trained, without it")
    parser.add_argument("--n", type=int, default=24, help="validation questions per run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/council"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    runs = [RunDir.open(name) for name in given.run or ["game24"]]
    rows = [row for run in runs for row in measure(run.path, given.n, given.seeds, given.folder / run.path.name)]
    puzzles = [run for run in runs if load_recipe(run.path / "config.yaml").task == game24.game24.__name__]
    paper = game24.figures(puzzles[0], "test", game24.ARMS, None, given.seeds, game24.FOLDER) if puzzles else None
    if given.json:
        print(json.dumps({"table": rows, "game24": paper}))
        return
    for row in rows:
        extra = "".join(
            f"  {label} {100 * row[key][0]:+.1f} [{100 * row[key][1]:+.1f}, {100 * row[key][2]:+.1f}]"
            for key, label in (("over_sc", "over SC"), ("over_best", "over best of n"))
            if key in row
        )
        print(
            f"{row['task']:<10} {row['arm']:<36} {row['scorer']:<8} {100 * row['accuracy']:5.1f} "
            f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]  {row['tokens']} tokens{extra}"
        )
    if paper:
        print("Game of 24, the paper's puzzles:", "  ".join(f"{key} {value}" for key, value in paper.items()))


if __name__ == "__main__":
    main()

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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agents.config import ExpertConfig
from agents.scorers import Line, Score
from agents.thought import line_grammar
from alignment import prefix_tree
from alignment.batch import encode_scored
from alignment.decoding import Completion
from alignment.engine import Engine, Request
from alignment.flight import overlap
from alignment.run_dir import RunDir
from benchmarks import game24
from benchmarks.council_tables import LINES, SCORERS, lines, shared_by, table
from benchmarks.kept import kept
from graphs.recipe import Recipe, load_recipe, load_task
from graphs.sitting import seat, sit
from graphs.turns import Context

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
    print("\n".join(lines(rows)))
    if paper:
        print("Game of 24, the paper's puzzles:", "  ".join(f"{key} {value}" for key, value in paper.items()))


if __name__ == "__main__":
    main()

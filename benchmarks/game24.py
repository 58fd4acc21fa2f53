"""The Game of 24 by a council: ``python -m benchmarks.game24 --run game24 [--split validation] [--seeds 5] [--json]``.

Three arms on the same puzzles. ``model_only``: the run's own council; a grammar fixes the shape
of a step, and the checker runs once, after the answer. ``with_checker``: a tool verifies each step that the model
wrote, at most 60 proposals a puzzle. ``random_with_checker``: the same search, tool and number of proposals, and legal
steps drawn at random in place of the model's. ``--split test`` takes the Tree of Thoughts paper's puzzles (rows 900 to
999 of its list), which neither training nor settings have seen: it is for the end, once.

The paper's figures for GPT-4, which was prompted and not trained on other puzzles: one answer 7.3 %, chain of thought
4.0 %, its self-consistency over 100 samples 9 %, Tree of Thoughts with one state kept 45 %, with five 74 % (any of
five; the authors' logs give 62 % for the first answer).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from agents import search
from agents.config import CouncilConfig
from agents.thought import Thought, Tree, line
from alignment.engine import Engine
from alignment.run_dir import RunDir
from alignment.statistics import bootstrap
from benchmarks.kept import kept
from graphs.recipe import Recipe, load_recipe
from graphs.sitting import calibration_of, seat, sit
from graphs.tasks import game24

PROPOSALS = 60
CHECKED = {
    "search": "best_first",
    "width": 3,
    "proposals": 4,
    "depth": 3,
    "rounds": 60,
    "max_proposals": PROPOSALS,
    "max_total_tokens": 10**6,
    "leave_refuted": True,
    "answers": 1,
    "share": False,
    "vote": "best",
}
ARMS = ("model_only", "with_checker", "random_with_checker")
FOLDER = Path("runs/benchmarks/game24")
TIMED = 4
TOGETHER = 8  # councils that sit at a time where nobody times them

Row = dict[str, Any]


def at_random(puzzle: str, config: CouncilConfig, seed: str) -> Row:
    """The search of ``config`` with legal steps at random, scored at random; a line ends in 24 or is given up."""
    rng = random.Random(seed)
    settings = search.Settings(config.width, config.proposals, config.depth or 3, config.exploration)
    tree: Tree = {}
    while len(tree) < PROPOSALS:
        plan = search.within(search.STRATEGIES[config.search](tree, settings), PROPOSALS - len(tree))
        if not plan.expand:
            break
        for place, count in plan.expand:
            steps = line(tree, place)
            state = game24.follow(puzzle, steps)
            assert state is not None
            for _ in range(count):
                text, left = rng.choice(game24.moves(state))
                repeated = any(t.parent == place and t.text == text for t in tree.values())
                status = "pruned" if repeated or (len(left) == 1 and left[0] != 24) else "active"
                name = str(len(tree))
                tree[name] = Thought(
                    id=name, parent=place, expert="", round=0, text=text, score=rng.random(), status=status
                )
                if len(left) == 1 and left[0] == 24:
                    return {"solved": True, "proposals": len(tree)}
    return {"solved": False, "proposals": len(tree)}


def sitting(engine: Engine, run: RunDir, recipe: Recipe, arm: str, seed: int, puzzle: str) -> Row:
    """One puzzle by one arm."""
    began = time.perf_counter()
    changes = {"seed": seed, "seconds": None} | ({} if arm == "model_only" else CHECKED)
    council = recipe.council.model_copy(update=changes)
    row: Row = {"arm": arm, "seed": seed, "puzzle": puzzle}
    if arm == "random_with_checker":
        row |= at_random(puzzle, council, f"{seed}/{puzzle}")
    else:
        changed = recipe.model_copy(update={"council": council})
        context = seat(engine, game24, changed, f"benchmark/{puzzle}", calibration_of(run))
        found = sit(context, puzzle, lambda event: None, Path(":memory:"), None)
        row |= {"solved": bool(found["solved"]), "proposals": found["proposals"], "tokens": found["tokens"]}
        row["answered"] = found["answer"] is not None
    return row | {"seconds": time.perf_counter() - began}


def measure(run: RunDir, arms: Sequence[str], puzzles: Sequence[str], seeds: int, path: Path) -> list[Row]:
    """A row per arm, seed and puzzle; those on disk are not computed again. Every ``TIMED``-th puzzle of the first seed
    is sat over alone, and timed; the other councils share the engine, ``TOGETHER`` at a time."""
    recipe = load_recipe(run.path / "config.yaml")
    wanted = list(itertools.product(arms, range(seeds), puzzles))
    timed = {(arm, 0, puzzle) for arm in arms for puzzle in puzzles[::TIMED]}
    with Engine.open(run.path) as engine:
        council = recipe.council.model_dump(mode="json", exclude_defaults=True)  # without settings that came later
        about = [engine.fingerprint, council, recipe.reward.function, recipe.data]
        with kept(path, [*about, calibration_of(run), CHECKED]) as (rows, keep):
            there = {(row["arm"], row["seed"], row["puzzle"]): row for row in rows}
            for alone in (True, False):
                missing = [key for key in wanted if key not in there and (key in timed) == alone]
                with ThreadPoolExecutor(1 if alone else TOGETHER) as threads:
                    for row in threads.map(lambda key: sitting(engine, run, recipe, *key), missing):
                        row["seconds"] = row["seconds"] if alone else None
                        there[row["arm"], row["seed"], row["puzzle"]] = row
                        keep(row)
                        print(f"{len(there)}/{len(wanted)} {json.dumps(row)}", file=sys.stderr, flush=True)
    return [there[key] for key in wanted]


def summary(rows: Sequence[Row], puzzles: Sequence[str]) -> Row:
    """Accuracy of every arm, the mean over seeds with its interval over puzzles; seconds per puzzle."""
    found: Row = {"n": len(puzzles), "seeds": len({row["seed"] for row in rows})}
    for arm in {row["arm"]: None for row in rows}:
        mine = [row for row in rows if row["arm"] == arm]
        each = [float(np.mean([row["solved"] for row in mine if row["puzzle"] == puzzle])) for puzzle in puzzles]
        interval = bootstrap(each)
        found[arm] = interval["value"]
        found[f"{arm}_interval"] = [interval["low"], interval["high"]]
        found[f"{arm}_proposals"] = float(np.mean([row["proposals"] for row in mine]))
        seconds = [row["seconds"] for row in mine if row["seconds"] is not None]
        found[f"{arm}_seconds"] = {"mean": float(np.mean(seconds)), "most": max(seconds)}
    if "model_only_seconds" in found:
        found["seconds_per_puzzle"] = max(
            found[f"{arm}_seconds"]["mean"] for arm in ARMS[:2] if f"{arm}_seconds" in found
        )
    return found


def figures(run: RunDir, split: str, arms: Sequence[str], count: int | None, seeds: int, folder: Path) -> Row:
    """The summary of ``split``, from rows under ``folder`` as far as they are there."""
    options = game24.Options(**load_recipe(run.path / "config.yaml").data)
    four = [puzzle for puzzle in game24.split(options)["validation"] if puzzle.count(" ") == 3]
    puzzles = (game24.test_puzzles() if split == "test" else four)[:count]
    folder.mkdir(parents=True, exist_ok=True)
    return summary(measure(run, arms, puzzles, seeds, folder / f"{run.path.name}-{split}.jsonl"), puzzles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="game24")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--arm", action="append", choices=ARMS)
    parser.add_argument("--n", type=int, help="puzzles; all of the split without it")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = figures(RunDir.open(given.run), given.split, given.arm or ARMS, given.n, given.seeds, given.folder)
    print(json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()

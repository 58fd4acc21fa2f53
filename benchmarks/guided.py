"""Value-guided decoding against best-of-k by reward at equal total tokens, on the held-out puzzles of a run.

    python -m benchmarks.guided --run quickstart [--n 45] [--json]

Tokens are those written and those read by the judge. Each guided arm stands beside the smallest best-of-k that spends
at least as many tokens, so that the comparison leans towards the baseline. Differences are paired, on the same puzzles.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from alignment.engine import Engine
from alignment.guided import Choice, guided
from alignment.run_dir import RunDir
from alignment.statistics import bootstrap, paired_wilson, wilson
from graphs.recipe import load_recipe, load_task

GUIDED_K = (2, 4)
BEST_OF_K = (1, 2, 3, 4, 6, 8, 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="quickstart")
    parser.add_argument("--n", type=int, default=45)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    run = RunDir.open(arguments.run)
    recipe = load_recipe(run.path / "config.yaml")
    task = load_task(recipe.task, run.path)
    data = task.load(task.Options(**recipe.data), recipe.seed, Path(run.environment()["base"]))
    rows = data.prompts["validation"][: arguments.n]
    with Engine.open(run.path) as engine:
        result = compare(engine, rows, task.check, arguments.temperature)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{result['n']} held-out puzzles, temperature {arguments.temperature}")
    for arm in result["arms"]:
        solved = arm["solved"]
        print(
            f"{arm['arm']:16s} tokens {arm['tokens']:7.1f}  solved {solved['value']:.1%} "
            f"[{solved['low']:.1%}, {solved['high']:.1%}]  reward {_interval(arm['reward'])}"
        )
    for pair in result["pairs"]:
        d = pair["solved"]
        print(
            f"{pair['guided']} - {pair['best_of']}: reward {_interval(pair['reward'])}, solved {d['value']:+.1%} "
            f"[{d['low']:+.1%}, {d['high']:+.1%}], tokens {pair['tokens'][0]:.0f} against {pair['tokens'][1]:.0f}"
        )


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def compare(engine: Engine, rows: list[dict[str, Any]], check: Any, temperature: float) -> dict[str, Any]:
    """Arms with solved share, reward and tokens per puzzle, and the paired differences at equal tokens."""
    prompts = [row["prompt"] for row in rows]
    arms: dict[str, list[Choice]] = {}
    for k in BEST_OF_K:
        arms[f"best of {k}"] = guided(engine, prompts, k, 1, 60, temperature, "s", stop=(), judge="reward")
        print(f"best of {k}: done", file=sys.stderr)
    for k in GUIDED_K:
        arms[f"guided {k}"] = guided(engine, prompts, k, 4, 30, temperature, "s")
        print(f"guided {k}: done", file=sys.stderr)
    solved = {
        name: [bool(check(row["question"], c.text)) for row, c in zip(rows, choices, strict=True)]
        for name, choices in arms.items()
    }
    tokens = {name: sum(c.tokens for c in choices) / len(choices) for name, choices in arms.items()}
    rewards = {name: engine.score(prompts, [c.text for c in choices]) for name, choices in arms.items()}
    table = [
        {
            "arm": name,
            "tokens": tokens[name],
            "solved": wilson(sum(solved[name]), len(rows)),
            "reward": bootstrap(rewards[name]),
        }
        for name in arms
    ]
    pairs = []
    for k in GUIDED_K:
        mine = f"guided {k}"
        as_many = [f"best of {j}" for j in BEST_OF_K if tokens[f"best of {j}"] >= tokens[mine]]
        other = as_many[0] if as_many else f"best of {BEST_OF_K[-1]}"
        pairs.append(
            {
                "guided": mine,
                "best_of": other,
                "tokens": [tokens[mine], tokens[other]],
                "solved": paired_wilson(solved[other], solved[mine]),
                "reward": bootstrap([a - b for a, b in zip(rewards[mine], rewards[other], strict=True)]),
            }
        )
    return {"n": len(rows), "temperature": temperature, "arms": table, "pairs": pairs}


if __name__ == "__main__":
    main()

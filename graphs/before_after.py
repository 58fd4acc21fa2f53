"""The evaluation in ``align``: generate -> score -> aggregate, on held-out prompts, before and after PPO; at the end
the same on those of the test split.

Both arms, the SFT model and the policy, answer the same prompts with the same random streams, so that their
difference is paired. What was generated is kept in ``samples.jsonl`` and is not generated again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from alignment.engine import Engine, Request
from alignment.run_dir import Report, RunDir
from alignment.scoring import Scorer
from alignment.statistics import Interval, bootstrap, paired_wilson, wilson
from graphs.evaluation.ability import ability
from graphs.recipe import EvaluateConfig

ARMS = ("sft", "policy")
SPLITS = {
    "evaluate": ("validation", "held-out"),
    "test": ("test", "test"),
}  # of a stage, and what its prompts are called
CHUNK = 16  # prompts per batch; fixed, because the shape of a batch decides how bfloat16 sums are rounded

Row = dict[str, Any]


class State(TypedDict, total=False):
    samples: list[Row]
    results: dict[str, Any]


@dataclass
class Context:
    """What the nodes work with; nothing of it is kept in the state."""

    engine: Engine
    prompts: list[Row]
    check: Callable[[str, str], bool | None]
    config: EvaluateConfig
    run: RunDir
    report: Report
    score: Scorer
    stage: str = "evaluate"  # or "test"


def generate(state: State, runtime: Runtime[Context]) -> State:
    """Every arm's response to every prompt, chunk by chunk; complete chunks on disk are taken from there."""
    c = runtime.context
    kept = {(r["arm"], r["id"]): r for r in c.run.samples() if r["stage"] == c.stage and "ids" in r}
    samples: list[Row] = []
    steps = [(arm, chunk) for arm in ARMS for chunk in _chunks(c.prompts)]
    first = time.monotonic()
    for step, (arm, chunk) in enumerate(steps, 1):
        rows: list[Row | None] = [kept.get((arm, row["id"])) for row in chunk]
        begin = time.monotonic()
        if any(row is None for row in rows):
            written = _respond(c, arm, chunk)
            c.run.append("samples.jsonl", written)
            rows = [*written]
        samples += [row for row in rows if row is not None]
        now = time.monotonic()
        c.report(
            {
                "stage": c.stage,
                "step": step,
                "total": len(steps),
                "metrics": {},
                "message": f"{arm}: {len(chunk)} responses",
                "tokens_per_second": sum(len(r["ids"]) for r in rows if r) / max(now - begin, 1e-9),
                "eta_seconds": (now - first) / step * (len(steps) - step),
            }
        )
    return {"samples": samples}


def score(state: State, runtime: Runtime[Context]) -> State:
    """Reward of every sample, whether it solves its question, and log-probabilities under both arms for the KL."""
    c = runtime.context
    prompts = {row["id"]: row["prompt"] for row in c.prompts}
    samples = state["samples"]
    rewards = c.score([prompts[s["id"]] for s in samples], [s["text"] for s in samples])
    policy = [s for s in samples if s["arm"] == "policy"]
    asked = [prompts[s["id"]] for s in policy]
    ids = [s["ids"] for s in policy]
    temperature = c.config.temperature or 1.0
    logp, reference = (c.engine.logprobs(asked, ids, role, temperature) for role in ("policy", "sft"))
    kl = {s["id"]: sum(a) - sum(b) for s, a, b in zip(policy, logp, reference, strict=True)}
    scored = [
        s
        | {"reward": r, "solved": c.check(s["question"], s["text"])}
        | ({"kl": kl[s["id"]]} if s["arm"] == "policy" else {})
        for s, r in zip(samples, rewards, strict=True)
    ]
    return {"samples": scored}


def aggregate(state: State, runtime: Runtime[Context]) -> State:
    """Each arm's figures, the paired differences, and what they say in words."""
    c = runtime.context
    c.run.rewind("samples.jsonl", c.stage, -1)
    c.run.append("samples.jsonl", [{k: v for k, v in s.items() if k != "kl"} for s in state["samples"]])
    sft, policy = ([s for s in state["samples"] if s["arm"] == arm] for arm in ARMS)
    reward = {
        "sft": bootstrap([s["reward"] for s in sft]),
        "policy": bootstrap([s["reward"] for s in policy]),
        "difference": bootstrap([p["reward"] - s["reward"] for s, p in zip(sft, policy, strict=True)]),
    }
    solved = None
    if all(s["solved"] is not None for s in state["samples"]):
        solved = {
            "sft": wilson(sum(s["solved"] for s in sft), len(sft)),
            "policy": wilson(sum(s["solved"] for s in policy), len(policy)),
            "difference": paired_wilson([s["solved"] for s in sft], [p["solved"] for p in policy]),
        }
    kl = bootstrap([s["kl"] for s in policy])
    split, of = SPLITS[c.stage]
    results: dict[str, Any] = {"split": split, "n": len(sft), "reward": reward, "solved": solved, "kl": kl}
    words = _words(f"{len(sft)} {of} prompts", reward, solved, kl)
    if c.config.ability:

        def tell(what: str) -> None:
            c.report({"stage": c.stage, "step": 1, "total": 1, "metrics": {}, "message": f"general ability: {what}"})

        results["ability"] = ability(c.engine, *ARMS, tell)
        words += _of_ability(results["ability"])
    return {"results": results | {"words": words}}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    for node in (generate, score, aggregate):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "generate")
    builder.add_edge("generate", "score")
    builder.add_edge("score", "aggregate")
    builder.add_edge("aggregate", END)
    return builder


graph = build().compile(name="before_after")


def _chunks(rows: list[Row]) -> list[list[Row]]:
    return [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]


def _respond(c: Context, arm: str, chunk: list[Row]) -> list[Row]:
    config = c.config
    requests = [
        Request(
            row["prompt"],
            role=arm,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=f"{config.seed}/{c.stage}/{row['id']}",
        )
        for row in chunk
    ]
    c.engine.forget_texts()  # or a run that goes on would not end in the same samples
    return [
        {
            "stage": c.stage,
            "arm": arm,
            "id": row["id"],
            "question": row["question"],
            "text": done.text,
            "ids": list(done.ids),
        }
        for row, done in zip(chunk, c.engine.generate(requests), strict=True)
    ]


def _words(prompts: str, reward: dict[str, Interval], solved: dict[str, Interval] | None, kl: Interval) -> list[str]:
    said = [_difference("mean reward", reward["difference"], prompts, "{:+.2f}")]
    if solved:
        said.append(
            f"Solved of {prompts}: {solved['sft']['value']:.0%} before PPO, {solved['policy']['value']:.0%} after."
        )
        said.append(_difference("share solved", solved["difference"], prompts, "{:+.1%}"))
    said.append(
        f"The policy is {kl['value']:.2f} nats per response away from the SFT model "
        f"(KL, 95% interval {kl['low']:.2f} to {kl['high']:.2f})."
    )
    return said


def _of_ability(found: dict[str, dict[str, Interval]]) -> list[str]:
    text, *sets = found.items()
    before, after, change = (text[1][key] for key in (*ARMS, "difference"))
    said = [
        f"General ability: perplexity of plain prose {before['value']:.1f} before PPO, {after['value']:.1f} after "
        f"(difference {change['value']:+.1f}, 95% interval {change['low']:+.1f} to {change['high']:+.1f})."
    ]
    shares = [f"{name} {arms['sft']['value']:.0%} before, {arms['policy']['value']:.0%} after" for name, arms in sets]
    return [*said, f"Questions answered right: {'; '.join(shares)}."]


def _difference(what: str, d: Interval, prompts: str, number: str) -> str:
    value, low, high = (number.format(d[key]) for key in ("value", "low", "high"))
    if d["low"] > 0:
        verdict = "PPO raised it"
    elif d["high"] < 0:
        verdict = "PPO lowered it"
    else:
        verdict = "the interval contains 0, so this run shows no difference"
    return f"Paired difference of the {what} over {prompts}: {value} (95% interval {low} to {high}); {verdict}."

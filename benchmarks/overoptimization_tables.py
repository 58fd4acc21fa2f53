"""The figures of ``benchmarks.overoptimization`` as text."""

from __future__ import annotations

from typing import Any

from benchmarks.best_of_n import at_equal_kl

Json = dict[str, Any]


def bounded(interval: Json | None, places: int = 2) -> str:
    if interval is None:
        return "-"
    return f"{interval['value']:.{places}f} ({interval['low']:.{places}f} to {interval['high']:.{places}f})"


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def lines(found: Json) -> list[str]:
    """Tables in Markdown: the reward model, best-of-n, every iteration of each arm, and the ends."""
    best, accuracy = found["best_of_n"], found["reward_model"]["pair_accuracy"]
    spread = best["gold_of_samples"]
    out = [
        f"gold of the base model's samples: mean {spread['mean']:.2f}, deviation {spread['deviation']:.2f}",
        f"reward model: accuracy on held-out pairs by gold {bounded(accuracy)}, correlation with gold over the pool "
        f"{best['correlation']:.2f}",
        "",
        f"best of n by the learned reward, {best['prompts']} prompts, {best['pool']} samples each",
        "",
        "| n | KL, nats | learned reward | gold |",
        "|---|---|---|---|",
        *(f"| {p['n']} | {p['kl']:.2f} | {bounded(p['reward'])} | {bounded(p['gold'])} |" for p in best["points"]),
    ]
    error = spread["deviation"] / found["rollouts"] ** 0.5
    for name, arm in found["arms"].items():
        out += ["", f"{name}: PPO, {arm['seconds'] / 60:.1f} min; in brackets best-of-n at the same KL"]
        out += [f"an iteration is {found['rollouts']} rollouts: the standard error of gold is about {error:.2f}", ""]
        out += ["| iteration | KL, nats | learned reward | gold | ended | tokens |", "|---|---|---|---|---|---|"]
        for row in arm["iterations"]:
            kl = row["objective/kl"]
            reward, true = (plain(at_equal_kl(best["points"], key, max(kl, 0.0))) for key in ("reward", "gold"))
            out.append(
                f"| {row['step']} | {kl:.2f} | {row['objective/scores']:.2f} [{reward}] | {row['objective/gold']:.2f} "
                f"[{true}] | {row['eos_rate']:.0%} | {row['val/response_length']:.0f} |"
            )
    out += ["", "| at the end | KL, nats | learned reward | gold | ended | tokens | perplexity | over before |"]
    out.append("|---" * 8 + "|")
    for name, arm in found["arms"].items():
        last = arm["final"]
        cells = [bounded(last[key]) for key in ("kl", "reward", "gold")]
        cells += [f"{last['ended']['value']:.0%}", f"{last['length']['value']:.0f}"]
        cells += [bounded(last.get("perplexity")), bounded(last.get("perplexity ratio"), 3)]
        out.append(f"| {name} | {' | '.join(cells)} |")
    for name, arm in found["arms"].items():
        changes = [f"{key} {bounded(value)}" for key, value in arm["final"].items() if key.startswith("gold less")]
        out += ["", f"{name}, at the end: {'; '.join(changes)}", f"report: {arm['report']}"]
        out += ["first texts:", *(f"- {' '.join(text.split())}" for text in arm["final"]["texts"][:3])]
    before = next(iter(found["arms"].values()))["final"].get("perplexity before")
    return [*out, "", f"perplexity before PPO: {bounded(before)}"]

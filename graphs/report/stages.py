"""What the report shows of each stage: which metrics make a curve, and what its results are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from graphs.report.curves import Series, line_chart
from graphs.report.formats import finite, interval, is_interval, number, percent

STAGES = {
    "data": "Data",
    "sft": "Supervised fine-tuning (SFT)",
    "reward": "Reward model",
    "audit": "Audit of the reward model",
    "ppo": "Proximal policy optimization (PPO)",
    "evaluate": "Held-out evaluation",
    "test": "Test split",
    "council": "Council sittings, for illustration",
}


@dataclass(frozen=True)
class Chart:
    """A curve of one or more columns of metrics.jsonl: column -> name; ``share`` draws a share in percent."""

    title: str
    unit: str
    columns: dict[str, str]
    include: tuple[float, ...] = ()
    reference: float | None = None
    share: bool = False


CHARTS: dict[str, tuple[Chart, ...]] = {
    "sft": (Chart("Loss", "nats per completion token", {"loss": "loss"}, include=(0.0,)),),
    "reward": (
        Chart("Loss", "mean over the batch", {"loss": "loss"}, include=(0.0,)),
        Chart("Pair accuracy", "% of the batch", {"accuracy": "accuracy"}, (0.0, 100.0), 50.0, share=True),
        Chart("Margin", "reward of chosen − reward of rejected", {"margin": "margin"}, reference=0.0),
        Chart("Absolute error", "mean over the batch, in the unit of the scores", {"mae": "error"}, include=(0.0,)),
    ),
    "ppo": (
        Chart(
            "Score of the reward model",
            "objective/scores, objective/rlhf_reward (score − KL penalty)",
            {"objective/scores": "score", "objective/rlhf_reward": "less KL"},
        ),
        Chart("Gold score", "objective/gold, measured and not trained on", {"objective/gold": "gold"}),
        Chart("KL to the SFT adapter", "objective/kl, nats per response", {"objective/kl": "KL"}, (0.0,)),
        Chart(
            "Responses that solve, that end by themselves",
            "solved, eos_rate, % of rollouts",
            {"solved": "solved", "eos_rate": "ended"},
            (0.0,),
            share=True,
        ),
        Chart("Probability ratio, new to old", "val/ratio", {"val/ratio": "ratio"}, reference=1.0),
        Chart("Clipped tokens", "policy/clipfrac_avg, %", {"policy/clipfrac_avg": "clipped"}, (0.0,), share=True),
        Chart("Approximate KL of an update", "policy/approxkl_avg, nats", {"policy/approxkl_avg": "KL"}, (0.0,)),
        Chart("Entropy of the policy", "objective/entropy, nats", {"objective/entropy": "entropy"}, (0.0,)),
        Chart("Weight of the KL penalty", "objective/kl_coef", {"objective/kl_coef": "beta"}, (0.0,)),
        Chart("Pretraining loss", "loss/ptx_avg, nats per token of plain text", {"loss/ptx_avg": "plain text"}, (0.0,)),
        Chart("Policy loss", "loss/policy_avg", {"loss/policy_avg": "policy"}, reference=0.0),
        Chart("Value loss", "loss/value_avg", {"loss/value_avg": "value"}, (0.0,)),
        Chart(
            "Explained variance of the value",
            "val/explained_variance, 1 is perfect",
            {"val/explained_variance": "explained"},
            reference=0.0,
        ),
    ),
}

# key of a stage's results -> (words, format)
digest = "{:.12}".format
RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "validation_loss": ("Validation loss, nats per token", number),
    "perplexity": ("Perplexity", number),
    "tokens": ("Tokens trained on", number),
    "trained_parameters": ("Trained parameters", number),
    "method": ("Method", str),
    "pair_accuracy": ("Held-out pair accuracy", percent),
    "auc": ("Held-out AUC", number),
    "pearson": ("Held-out Pearson correlation with the scores", number),
    "spearman": ("Held-out Spearman correlation with the scores", number),
    "mae": ("Held-out mean absolute error, in the unit of the scores", number),
    "mae_of_constant": ("The same of always predicting the mean", number),
    "brier": ("Held-out Brier score (0 perfect, 0.25 a coin)", number),
    "ece": ("Held-out expected calibration error (15 bins of confidence)", percent),
    "temperature": ("Temperature, fitted on the other half of the held-out pairs", number),
    "length_correlation": ("Correlation of reward and length", number),
    "reference_samples": ("Samples of the SFT model with mean reward 0 and deviation 1", number),
    "function": ("Reward function", str),
    "alarms": ("Surface features that the reward goes by", lambda names: str(names) or "none"),
    "audited": ("Rows audited", number),
    "iterations": ("Iterations", number),
    "objective/kl": ("KL to the SFT adapter, last iteration, nats", number),
    "objective/scores": ("Mean score, last iteration", number),
    "objective/gold": ("Mean gold score, last iteration", number),
    "val/ratio": ("Mean probability ratio, last iteration", number),
    "policy/clipfrac_avg": ("Clipped tokens, last iteration", percent),
    "solved": ("Rollouts solved, last iteration", percent),
    "sittings": ("Sittings", number),
    "sittings_solved": ("Sittings that ended solved", number),
    "eos_rate": ("Rollouts ended, last iteration", percent),
    "start_sha256": ("Adapter that it began with, sha256", digest),
    "adapter_sha256": ("Adapter, sha256", digest),
    "policy_sha256": ("Policy, sha256", digest),
    "value_sha256": ("Value model, sha256", digest),
}


def column(rows: Sequence[dict[str, Any]], key: str, factor: float) -> Series:
    """The values of one column over the steps; a missing or undefined value is a gap.

    A step that was done twice (a resumed run) counts once, with its last row.
    """
    by_step = {step: row for row in rows if (step := finite(row.get("step"))) is not None and key in row}
    values = ((step, finite(row[key])) for step, row in sorted(by_step.items()))
    return Series(key, [(step, float("nan") if v is None else factor * v) for step, v in values])


def charts(stage: str, metrics: Sequence[dict[str, Any]]) -> list[Markup]:
    """The SVG curves of a stage, in order; a curve without a finite value is left out."""
    rows = [row for row in metrics if row.get("stage") == stage]
    drawn = []
    for chart in CHARTS.get(stage, ()):
        series = [
            Series(name, column(rows, key, 100.0 if chart.share else 1.0).points) for key, name in chart.columns.items()
        ]
        label = "iteration" if stage == "ppo" else "step"
        svg = line_chart(chart.title, series, chart.unit, label, chart.include, chart.reference)
        if svg:
            drawn.append(svg)
    return drawn


def reliability_chart(points: Any) -> Markup:
    """Accuracy over confidence, one point for each bin of held-out pairs; empty where there are fewer than two."""
    rows = [(finite(p.get("confidence")), finite(p.get("accuracy"))) for p in points if isinstance(p, dict)]
    observed = sorted((100 * c, 100 * a) for c, a in rows if c is not None and a is not None)
    if len(observed) < 2:
        return Markup("")
    return line_chart(
        "Reliability",
        [Series("observed", observed), Series("calibrated", [(x, x) for x, _ in observed])],
        "% of pairs ordered right",
        "confidence, %",
        (50.0, 100.0),
    )


def undefined(stage: str, metrics: Sequence[dict[str, Any]]) -> int:
    """How many drawn values of a stage are not finite numbers."""
    keys = {key for chart in CHARTS.get(stage, ()) for key in chart.columns}
    rows = [row for row in metrics if row.get("stage") == stage]
    return sum(finite(row[key]) is None for row in rows for key in keys if key in row)


def result_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A stage's results as (words, estimate, interval or ""); known ones first, in a fixed order."""
    rows = []
    known = [key for key in RESULTS if key in results]
    for key in [*known, *(k for k in results if k not in RESULTS)]:
        words, form = RESULTS.get(key, (key, number))
        value = results[key]
        if is_interval(value):
            rows.append((words, *interval(value, None if form is number else form)))
        elif isinstance(value, dict | list):
            rows.append((words, json.dumps(value, ensure_ascii=False), ""))
        else:
            rows.append((words, value if isinstance(value, str) and form is number else form(value), ""))
    return rows

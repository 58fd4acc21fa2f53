"""Explain the reward of one response."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from explain import beam as alibi_beam
from explain.anchors import PRECISION, AnchorExplanation, Decision, exact_anchors
from explain.ask import Message, Progress, Scorer
from explain.faithful import faithfulness
from explain.lime import fit_lime
from explain.result import TextExplanation
from explain.table import RewardTable, fill
from explain.units import MAX_UNITS, segment


def explain_text(
    scorer: Scorer,
    prompt: list[Message],
    response: str,
    tau: float | None = None,
    units: str = "auto",
    *,
    max_units: int = MAX_UNITS,
    threshold: float = PRECISION,
    beam: bool = True,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> TextExplanation:
    """Which units move the reward of a response, and which of them suffice for it to reach tau.

    tau: None takes the median reward over all masks, so that by itself the decision is a coin's toss.
    units: "auto", "steps", "sentences" or "words", at most `max_units`; 2^units texts are scored.
    threshold: the precision that an anchor needs. beam: run alibi's search beside the exact one (its
    import takes about ten seconds). cache_dir: where rewards are kept between calls. progress: called with
    (scored, to score).

    Raises ValueError (one sentence) for an empty response, too many units, an impossible threshold.
    """
    table = fill(scorer, prompt, segment(response, units, max_units), cache_dir, progress)
    return explain_table(table, tau, threshold=threshold, beam=beam)


def explain_table(
    table: RewardTable, tau: float | None = None, *, threshold: float = PRECISION, beam: bool = True
) -> TextExplanation:
    """The same from a table that is already filled."""
    decision = Decision(float(np.median(table.rewards)) if tau is None else float(tau))
    lime = fit_lime(table)
    return TextExplanation(
        prompt=table.prompt,
        lime=lime,
        anchor=anchors(table, decision, threshold, beam),
        faithfulness=faithfulness(table, lime.weights),
        scorer=table.scorer,
        note=table.note,
    )


def anchors(table: RewardTable, decision: Decision, threshold: float, beam: bool) -> AnchorExplanation:
    """The exact anchors, with alibi's opinion where it is asked for."""
    exact = exact_anchors(table, decision, threshold)
    return alibi_beam.check(table, exact) if beam else exact

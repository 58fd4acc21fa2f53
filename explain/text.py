"""Explain the reward of one response, or of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma
from pathlib import Path

import numpy as np

from explain import beam as alibi_beam
from explain.anchors import PRECISION, AnchorExplanation, Decision, exact_anchors
from explain.ask import Message, Progress, Rewards, Scorer, question
from explain.faithful import Agreement, agreement, faithfulness, left_out
from explain.lime import LimeExplanation, fit_lime
from explain.perturb import Infill
from explain.result import METHODS, Drill, TextExplanation
from explain.sample import tabulate
from explain.shapley import ShapleyExplanation, shapley
from explain.table import RewardTable
from explain.units import MAX_UNITS, Frozen, drill, segment


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
    method: str = "all",
    perturbation: str = "remove",
    infill: Infill | None = None,
    on: str = "response",
    frozen: Sequence[Frozen] = (),
    drill_down: bool = False,
    randomised: Scorer | None = None,
    seed: int = 0,
    budget: int | None = None,
) -> TextExplanation:
    """Which units move the reward of a response, and which of them suffice for it to reach tau.

    tau: None takes the median reward over the masks, so that by itself the decision is a coin's toss.
    units: "auto", "steps", "sentences", "phrases" or "words". Up to 12 units every one of the 2^units texts is
    scored and the answers are exact; a named kind may have more, which are sampled. max_units: to how many "auto"
    merges. threshold: the precision that an anchor needs. beam: run alibi's search beside the exact one (its
    import takes about ten seconds). cache_dir: where rewards are kept between calls. progress: called with
    (scored, to score). method: "lime" (always included), "anchor", "shapley" or "all". perturbation: "remove",
    "placeholder" or "infill", the last by `infill`. on: "response", or "prompt": the units are those of the last user
    message, and the response stays. frozen: spans (start, end), or texts wherever they are written, that are never
    removed. drill_down: explain the strongest unit again by its words. randomised: a scorer whose head was drawn
    anew, to compare with. seed, budget: for what is sampled; masks at most, for each method.

    Raises ValueError (one sentence) for an empty response, too many units, an impossible threshold, an unknown
    option.
    """
    known_method(method)
    known_place(on, units)
    text = question(prompt) if on == "prompt" else response
    cut = segment(text, units, max_units, frozen)
    ask = Rewards(
        scorer,
        prompt,
        cut,
        cache_dir,
        progress,
        perturbation=perturbation,
        infill=infill,
        response=response if on == "prompt" else None,
    )
    return explain_table(
        tabulate(ask, seed, budget),
        tau,
        threshold=threshold,
        beam=beam,
        method=method,
        drill_down=drill_down,
        randomised=randomised,
        seed=seed,
        budget=budget,
    )


def explain_table(
    table: RewardTable,
    tau: float | None = None,
    *,
    threshold: float = PRECISION,
    beam: bool = True,
    method: str = "all",
    drill_down: bool = False,
    randomised: Scorer | None = None,
    seed: int = 0,
    budget: int | None = None,
) -> TextExplanation:
    """The same from a table that is already filled."""
    decision = Decision(typical_reward(table) if tau is None else float(tau))
    lime = fit_lime(table)
    anchor = anchors(table, decision, threshold, beam, seed, budget) if method in ("anchor", "all") else None
    values = shapley(table, seed, budget) if method in ("shapley", "all") else None
    return TextExplanation(
        prompt=table.prompt,
        lime=lime,
        anchor=anchor,
        faithfulness=faithfulness(table, lime.weights, randomised),
        scorer=table.scorer,
        note=table.note,
        shapley=values,
        agreement=agreements(table, lime, values, anchor),
        drill=drilled(table, lime) if drill_down else None,
        perturbation=table.perturbation,
        response=table.response,
        method=method,
    )


def typical_reward(table: RewardTable) -> float:
    """The median reward where every unit is kept with probability 1/2, which is the anchors' neighbourhood.

    LIME's draws hold each number of units equally often, so a sampled row counts by how much likelier its number is
    there.
    """
    if table.draws is None:
        return float(np.median(table.rewards))
    d = len(table.units)
    kept = table.rows.sum(axis=1)
    log = np.array([lgamma(d + 1) - lgamma(k + 1) - lgamma(d - k + 1) for k in range(d + 1)])  # of the binomials
    weights = table.draws * np.exp(log - log.max())[kept]
    order = np.argsort(table.rewards, kind="stable")
    middle = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(table.rewards[order][middle])


def known_method(method: str) -> None:
    """Raises ValueError for an unknown one."""
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")


def known_place(on: str, units: str, pair: bool = False) -> None:
    """Raises ValueError where the units cannot be cut there."""
    if on not in ("response", "prompt"):
        raise ValueError(f"Explaining is on the response or on the prompt, not on {on!r}.")
    if on == "prompt" and pair:
        raise ValueError("Explaining on the prompt is for one response; leave the other one out.")
    if units == "diff" and not pair:
        raise ValueError("The units diff need two responses; choose auto for one response.")


def anchors(
    table: RewardTable, decision: Decision, threshold: float, beam: bool, seed: int = 0, budget: int | None = None
) -> AnchorExplanation:
    """The exact anchors, with alibi's opinion where it is asked for; alibi's own where the table is sampled."""
    if not table.exact:
        return alibi_beam.search(table, decision, threshold, seed, budget)
    exact = exact_anchors(table, decision, threshold)
    return alibi_beam.check(table, exact) if beam and len(table.units) else exact


def agreements(
    table: RewardTable, lime: LimeExplanation, values: ShapleyExplanation | None, anchor: AnchorExplanation | None
) -> tuple[Agreement, ...]:
    """LIME, Shapley where there is one, leaving one out, and the first anchor, each two of them."""
    if len(table.units) < 2:
        return ()
    weights = {"LIME": lime.weights} | ({"Shapley": values.values} if values else {})
    weights["leave one out"] = tuple(left_out(table).tolist())
    first = anchor.anchors[0].units if anchor and anchor.anchors else None
    return agreement(weights, first, anchor.holds if anchor else True)


def drilled(table: RewardTable, lime: LimeExplanation) -> Drill | None:
    """The strongest unit by its words; None where it is but one word, or nothing can be asked."""
    if table.ask is None or not lime.weights or table.units.swaps:
        return None
    unit = int(np.argmax(np.abs(lime.weights)))
    inner = drill(table.units, unit)
    return Drill(unit, fit_lime(tabulate(table.ask.over(inner)))) if inner is not None else None

"""Explain why one response is preferred to another.

The margin r(chosen) - r(rejected) is a sum over the two responses, so LIME on the units of both together
equals LIME on each side, the rejected one negated: two tables of 2^d rewards instead of one of 2^(2d).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from explain.align import diff_units
from explain.anchors import PRECISION, Decision
from explain.ask import Message, Progress, Rewards, Scorer
from explain.faithful import faithfulness
from explain.flip import smallest_flip
from explain.lime import fit_lime
from explain.perturb import Infill
from explain.result import PairExplanation, Side
from explain.sample import tabulate
from explain.shapley import shapley
from explain.table import RewardTable
from explain.text import agreements, anchors, drilled, known_method
from explain.units import MAX_UNITS, Frozen, Units, segment


def explain_pair(
    scorer: Scorer,
    prompt: list[Message],
    chosen: str,
    rejected: str,
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
    frozen: Sequence[Frozen] = (),
    drill_down: bool = False,
    randomised: Scorer | None = None,
    seed: int = 0,
    budget: int | None = None,
) -> PairExplanation:
    """Which units of both responses make the margin, which of the chosen one suffice to beat the rejected
    one, and the fewest units whose removal reverses the preference.

    Nothing is swapped where `chosen` is not the better one: the margin is then negative. units: also "diff", the
    spans in which the two differ. perturbation: also "swap": a unit that is off becomes what the other response has
    in its place ("auto" then is "diff"). frozen: texts that are never removed, in whichever of both they are
    written. The other arguments and errors are those of `explain_text`.
    """
    known_method(method)
    # Both are cut before anything is scored, so that a refusal costs nothing.
    cut = cut_pair(chosen, rejected, units, max_units, perturbation, frozen)
    tables = pair_tables(
        [Rewards(scorer, prompt, side, cache_dir, progress, perturbation=perturbation, infill=infill) for side in cut],
        seed,
        budget,
    )
    return explain_tables(
        tables[0],
        tables[1],
        threshold=threshold,
        beam=beam,
        method=method,
        drill_down=drill_down,
        randomised=randomised,
        seed=seed,
        budget=budget,
    )


def cut_pair(
    chosen: str, rejected: str, units: str, max_units: int, perturbation: str, frozen: Sequence[Frozen] = ()
) -> tuple[Units, Units]:
    """The units of both responses. Raises ValueError (one sentence) where they cannot be cut so."""
    for text in (chosen, rejected):
        if not text.strip():
            raise ValueError("There is nothing to explain: a response is empty.")
    texts = known_frozen(frozen, chosen, rejected)
    if units == "diff" or (perturbation == "swap" and units == "auto"):
        if texts:
            raise ValueError("Nothing can be frozen where the units are the differences; choose sentences or words.")
        return diff_units(chosen, rejected, max_units)
    if perturbation == "swap":
        raise ValueError(f"The perturbation swap goes with the units diff, not with {units}; choose diff or auto.")
    first, second = (
        segment(text, units, max_units, [one for one in texts if one in text]) for text in (chosen, rejected)
    )
    return first, second


def known_frozen(frozen: Sequence[Frozen], chosen: str, rejected: str) -> list[str]:
    """What is frozen, all of it as text. Raises ValueError (one sentence) for what is in neither response."""
    texts = []
    for one in [frozen] if isinstance(frozen, str) else frozen:  # one text is no list of its letters
        if not isinstance(one, str):
            raise ValueError("For two responses, what is frozen is given as text, since a span is in one of them.")
        if not one or (one not in chosen and one not in rejected):
            raise ValueError(f"{one!r} is to be frozen and is in neither response; write it as it stands there.")
        texts.append(one)
    return texts


def pair_tables(asks: Sequence[Rewards], seed: int = 0, budget: int | None = None) -> tuple[RewardTable, RewardTable]:
    """One table for each side. Where units are swapped, one response's masks are the other's turned about, so that
    their texts are scored once."""
    chosen, rejected = asks
    table = tabulate(chosen, seed, budget)
    if chosen.perturbation == "swap":
        return table, replace(table, units=rejected.units, rewards=table.rewards[::-1].copy(), ask=rejected)
    return table, tabulate(rejected, seed, budget)


def explain_tables(
    chosen: RewardTable,
    rejected: RewardTable,
    *,
    threshold: float = PRECISION,
    beam: bool = True,
    method: str = "all",
    drill_down: bool = False,
    randomised: Scorer | None = None,
    seed: int = 0,
    budget: int | None = None,
) -> PairExplanation:
    """The same from two tables that are already filled."""
    margin = chosen.reward - rejected.reward
    wants_anchor = method in ("anchor", "all")
    decision = Decision(rejected.reward, strict=True)
    anchor = anchors(chosen, decision, threshold, beam, seed, budget) if wants_anchor else None
    sides = [
        _side(table, sign, method in ("shapley", "all"), randomised, seed, budget)
        for table, sign in ((chosen, 1.0), (rejected, -1.0))
    ]
    if drill_down:
        strongest = int(np.argmax([max(map(abs, side.margin_weights), default=0.0) for side in sides]))
        table = (chosen, rejected)[strongest]
        sides[strongest] = replace(sides[strongest], drill=drilled(table, sides[strongest].lime))
    return PairExplanation(
        prompt=chosen.prompt,
        chosen=sides[0],
        rejected=sides[1],
        margin=margin,
        preferred="chosen" if margin > 0 else "rejected" if margin < 0 else "neither",
        anchor=anchor,
        flip=smallest_flip(chosen, rejected),
        scorer=chosen.scorer,
        note=chosen.note,
        perturbation=chosen.perturbation,
        method=method,
    )


def _side(
    table: RewardTable, sign: float, wants_values: bool, randomised: Scorer | None, seed: int, budget: int | None
) -> Side:
    lime = fit_lime(table)
    values = shapley(table, seed, budget) if wants_values else None
    # Swapping all units of one side makes the other: each side tells the whole margin, so each counts for half.
    share = sign / 2 if table.perturbation == "swap" else sign
    return Side(
        lime,
        tuple(share * weight for weight in lime.weights),
        faithfulness(table, lime.weights, randomised),
        values,
        tuple(share * value for value in values.values) if values else (),
        agreements(table, lime, values, None),
    )

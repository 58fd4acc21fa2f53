"""alibi's Anchors beam search, fed from the reward table: a second opinion on the exact anchors of a full table, and
the way to anchors among more units than can be enumerated."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from explain.anchors import Anchor, AnchorExplanation, BeamCheck, Decision, agreement, counterexamples, precisions
from explain.masks import all_masks
from explain.table import RewardTable

DRAWS = 5000  # masks at most, where each may cost a text
_DELTA = 0.05  # one minus the confidence of alibi's bounds
_COVERAGE = 2000  # masks that alibi counts coverage on, where not all of them
_FIRST = 500  # draws with nothing fixed


def check(table: RewardTable, exact: AnchorExplanation, seed: int = 0) -> AnchorExplanation:
    """The same explanation with alibi's answer beside it. The import of alibi takes about ten seconds."""
    d = len(table.units)
    agree = agreement(table, exact.decision)
    sampler = _Sampler(lambda kept: agree[kept @ (1 << np.arange(d))], d, np.random.default_rng(seed), all_masks(d))
    try:
        # With fewer first draws, alibi can miss that the empty anchor suffices, and adds a spurious unit.
        answer = _search(sampler, exact.threshold, beam_size=2, epsilon=0.1, first=1000, stop_on_first=False)
    except ImportError as error:  # alibi, or something that it needs: the exact answer does not depend on it
        return replace(exact, beam_note=_missing(error))
    units = tuple(sorted(int(unit) for unit in answer["feature"]))
    if units:
        mean, count = float(answer["mean"][-1]), answer["drawn"](units)
    else:
        mean, count = float(np.ravel(answer["all_precision"])[0]), float(answer["num_preds"])
    low, high = bounds(mean, count, d)
    truth = float(precisions(agree)[sum(1 << unit for unit in units)])
    found = bool(answer["success"]) and len(units) < d  # alibi counts the whole text as a success
    agrees = found == bool(exact.anchors) and (not found or low <= truth <= high)
    note = _note(found, units, truth, exact)
    return replace(exact, beam=BeamCheck(found, units, mean, low, high, truth, agrees, note))


def search(
    table: RewardTable, decision: Decision, threshold: float, seed: int = 0, draws: int | None = None
) -> AnchorExplanation:
    """Anchors of a sampled table by alibi's search, which asks for the rewards of the masks that it draws.

    It finds one anchor or none, with bounds; "none" also where `draws` masks did not suffice, which beam_note says.
    Raises ValueError unless 0 < threshold <= 1.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"The precision threshold is {threshold}; choose a number above 0 and at most 1.")
    d = len(table.units)
    holds = bool(decision.of(np.array([table.reward]))[0])
    rng = np.random.default_rng(seed)
    sampler = _Sampler(
        lambda kept: decision.of(table.at(kept)) == holds,
        d,
        rng,
        np.random.default_rng(seed).random((_COVERAGE, d)) < 0.5,
        DRAWS if draws is None else draws,
    )
    first = min(_FIRST, DRAWS if draws is None else draws)
    found, note = False, ""
    units: tuple[int, ...] = ()
    try:
        answer = _search(sampler, threshold, beam_size=1, epsilon=0.15, first=first, stop_on_first=True)
        units = tuple(sorted(int(unit) for unit in answer["feature"]))
        found = bool(answer["success"]) and len(units) < d
    except ImportError as error:
        note = _missing(error)
    except _Spent:
        note = f"the search stopped after {sampler.drawn} masks; a larger budget may find an anchor"
    if not sampler.batches:  # the base rate needs no alibi
        sampler((0, ()), first)
    if not found:
        units = sampler.most_precise()
    agreeing, count = sampler.tally(units)
    low, high = bounds(agreeing / count, count, d)
    best = Anchor(units, agreeing / count, 2.0 ** -len(units), low, high)
    base_agreeing, base_count = sampler.tally(())
    # The drawn masks keep half of the units, so one removal at a time is looked at too: those are nearest.
    near = np.concatenate([~np.eye(d, dtype=bool), *(kept for _, kept, _ in sampler.batches)])
    return AnchorExplanation(
        units=table.units,
        decision=decision,
        holds=holds,
        threshold=threshold,
        base_rate=base_agreeing / base_count,
        anchors=(best,) if found else (),
        count=int(found),
        closest=None if found else best,
        beam_note=note,
        counterexamples=counterexamples(table, decision, best, near),
        exact=False,
        draws=sampler.drawn,
    )


def bounds(mean: float, count: float, candidates: int) -> tuple[float, float]:
    """KL bounds (Kaufmann and Kalyanakrishnan, COLT 2013) of a share estimated from `count` draws.

    The estimate is the best of about `candidates`, so its bounds share delta among them.
    """
    level = np.log(2 * candidates / _DELTA) / count

    def edge(outer: float) -> float:
        inner = mean
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if _kl(mean, middle) <= level else (inner, middle)
        return inner

    return edge(0.0), edge(1.0)


def _kl(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two coins, in nats."""
    total = 0.0
    for a, b in ((p, q), (1.0 - p, 1.0 - q)):
        if a > 0.0:
            total += a * np.log(a / b) if b > 0.0 else np.inf
    return float(total)


class _Spent(Exception):
    """No more draws are allowed."""


class _Sampler:
    """alibi's sampler protocol: keep every unit with probability 1/2, and the anchor's units always."""

    def __init__(
        self,
        agrees: Callable[[np.ndarray], np.ndarray],
        d: int,
        rng: np.random.Generator,
        coverage: np.ndarray,
        most: int | None = None,
    ) -> None:
        self.agrees, self.d, self.rng, self.coverage, self.most = agrees, d, rng, coverage, most
        self.drawn = 0
        # What was drawn, for which anchor, and whether it agrees; kept where draws are limited, so few.
        self.batches: list[tuple[frozenset[int], np.ndarray, np.ndarray]] = []

    def __call__(self, anchor: tuple[int, tuple[int, ...]], num_samples: int, compute_labels: bool = True) -> list[Any]:
        position, present = anchor
        if not compute_labels:  # the rows that coverage is counted on
            return [self.coverage]
        if self.most is not None and self.drawn + num_samples > self.most:
            raise _Spent
        kept = self.rng.random((num_samples, self.d)) < 0.5
        kept[:, list(present)] = True
        labels = self.agrees(kept)
        self.drawn += num_samples
        if self.most is not None:
            self.batches.append((frozenset(present), kept, labels))
        # alibi keeps up to ten examples of either kind; ours come from the table
        return [kept[labels][:10], kept[~labels][:10], labels.astype(int), kept, -1.0, position]

    def tally(self, units: tuple[int, ...]) -> tuple[int, int]:
        """(agreeing, all) of the draws that keep these units.

        Those drawn for a part of them count, where they happen to keep the rest; those drawn for others do not,
        since they keep more than chance would.
        """
        agreeing = total = 0
        for present, kept, labels in self.batches:
            if present <= set(units):
                rows = kept[:, list(units)].all(axis=1)
                agreeing, total = agreeing + int(labels[rows].sum()), total + int(rows.sum())
        return agreeing, total

    def most_precise(self) -> tuple[int, ...]:
        """Of the anchors drawn for, short of the whole text, the one that agrees most often."""
        drawn_for = {tuple(sorted(present)) for present, _, _ in self.batches if len(present) < self.d}

        def rate(units: tuple[int, ...]) -> tuple[float, int, tuple[int, ...]]:
            agreeing, total = self.tally(units)
            return agreeing / total, -len(units), units

        return max(drawn_for, key=rate, default=())


def _search(
    sampler: _Sampler, threshold: float, *, beam_size: int, epsilon: float, first: int, stop_on_first: bool
) -> dict[str, Any]:
    """alibi's answer, with "drawn", which gives the number of masks drawn that hold an anchor."""
    with warnings.catch_warnings():  # of alibi's own imports
        warnings.simplefilter("ignore")
        from alibi.explainers.anchors.anchor_base import AnchorBaseBeam

    beam = AnchorBaseBeam(samplers=[sampler], sample_cache_size=100, cache_margin=1000)
    logger = logging.getLogger("alibi.explainers.anchors.anchor_base")
    # It warns about the bins of tabular data; that no anchor was found is said in the result.
    logger.addFilter(_never)
    try:
        answer: dict[str, Any] = beam.anchor_beam(
            delta=_DELTA,
            epsilon=epsilon,
            desired_confidence=threshold,
            beam_size=beam_size,
            epsilon_stop=0.05,
            min_samples_start=first,
            max_anchor_size=sampler.d,
            stop_on_first=stop_on_first,
            batch_size=100,
            coverage_samples=len(sampler.coverage),
        )
    finally:
        logger.removeFilter(_never)
    return answer | {"drawn": lambda units: float(beam.state["t_nsamples"][units])}


def _missing(error: ImportError) -> str:
    missing = (error.name or "alibi").split(".")[0]
    return f"{missing} cannot be imported; junto doctor --fix installs it"


def _note(found: bool, units: tuple[int, ...], truth: float, exact: AnchorExplanation) -> str:
    if not found:
        return "it found no anchor either" if not exact.anchors else "it missed the anchor"
    if exact.anchors and units == exact.anchors[0].units:
        return "it found the same anchor"
    if truth < exact.threshold - 1e-12:
        return "its anchor misses the threshold, within its tolerance of 0.05"
    listed = exact.anchors
    if listed and (len(units) == len(listed[0].units) or any(units == anchor.units for anchor in listed)):
        return "it found another minimal anchor"
    return "its anchor holds" + ("" if exact.count > len(listed) else " but is larger than needed")


def _never(record: logging.LogRecord) -> bool:
    return False

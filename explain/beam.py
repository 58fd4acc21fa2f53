"""alibi's Anchors beam search, fed from the reward table, as a second opinion on the exact anchors."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from explain.anchors import AnchorExplanation, BeamCheck, agreement, precisions
from explain.masks import all_masks
from explain.table import RewardTable

_DELTA = 0.05  # one minus the confidence of alibi's bounds


def check(table: RewardTable, exact: AnchorExplanation, seed: int = 0) -> AnchorExplanation:
    """The same explanation with alibi's answer beside it. The import of alibi takes about ten seconds."""
    try:
        beam = _search(table, exact, seed)
    except ImportError as error:  # alibi, or something that it needs: the exact answer does not depend on it
        missing = (error.name or "alibi").split(".")[0]
        return replace(exact, beam_note=f"{missing} cannot be imported; junto doctor --fix installs it")
    return replace(exact, beam=beam)


def _search(table: RewardTable, exact: AnchorExplanation, seed: int) -> BeamCheck:
    with warnings.catch_warnings():  # of alibi's own imports
        warnings.simplefilter("ignore")
        from alibi.explainers.anchors.anchor_base import AnchorBaseBeam

    d = len(table.units)
    agree = agreement(table, exact.decision)
    sampler = _TableSampler(agree, d, np.random.default_rng(seed))
    search = AnchorBaseBeam(samplers=[sampler], sample_cache_size=100, cache_margin=1000)
    logger = logging.getLogger("alibi.explainers.anchors.anchor_base")
    # It warns about the bins of tabular data; that no anchor was found is said in the result.
    logger.addFilter(_never)
    try:
        answer = search.anchor_beam(
            delta=_DELTA,
            epsilon=0.1,
            desired_confidence=exact.threshold,
            beam_size=2,
            epsilon_stop=0.05,
            # With 100, alibi can miss that the empty anchor suffices, and adds a spurious unit.
            min_samples_start=1000,
            max_anchor_size=d,
            stop_on_first=False,
            batch_size=100,
            coverage_samples=2**d,
        )
    finally:
        logger.removeFilter(_never)

    units = tuple(sorted(int(unit) for unit in answer["feature"]))
    if units:
        mean, count = float(answer["mean"][-1]), float(search.state["t_nsamples"][units])
    else:
        mean, count = float(np.ravel(answer["all_precision"])[0]), float(answer["num_preds"])
    # The estimate is the best of about d candidates, so its bounds share delta among them.
    level = np.array([np.log(2 * d / _DELTA) / count])
    low = float(search.dlow_bernoulli(np.array([mean]), level)[0])
    high = float(search.dup_bernoulli(np.array([mean]), level)[0])
    truth = float(precisions(agree)[sum(1 << unit for unit in units)])
    found = bool(answer["success"]) and len(units) < d  # alibi counts the whole text as a success
    agrees = found == bool(exact.anchors) and (not found or low <= truth <= high)
    return BeamCheck(found, units, mean, low, high, truth, agrees, _note(found, units, truth, exact))


def _note(found: bool, units: tuple[int, ...], truth: float, exact: AnchorExplanation) -> str:
    if not found:
        return "it found no anchor either" if not exact.anchors else "it missed the anchor"
    if exact.anchors and units == exact.anchors[0].units:
        return "it found the same anchor"
    if any(units == anchor.units for anchor in exact.anchors):
        return "it found another minimal anchor"
    if truth < exact.threshold - 1e-12:
        return "its anchor misses the threshold, within its tolerance of 0.05"
    return "its anchor holds but is larger than needed"


def _never(record: logging.LogRecord) -> bool:
    return False


class _TableSampler:
    """alibi's sampler protocol: keep every unit with probability 1/2, and the anchor's units always."""

    def __init__(self, agree: np.ndarray, d: int, rng: np.random.Generator) -> None:
        self.agree, self.d, self.rng = agree, d, rng

    def __call__(self, anchor: tuple[int, tuple[int, ...]], num_samples: int, compute_labels: bool = True) -> list[Any]:
        position, present = anchor
        if not compute_labels:  # the rows that coverage is counted on: all masks make it exact
            return [all_masks(self.d)]
        kept = self.rng.random((num_samples, self.d)) < 0.5
        kept[:, list(present)] = True
        codes = kept @ (1 << np.arange(self.d))
        labels = self.agree[codes]
        return [codes[labels][:10], codes[~labels][:10], labels.astype(int), kept, -1.0, position]

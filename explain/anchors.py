"""Anchors: units that, kept, make the decision hold whatever else is removed. Exact, from the full reward table.

Ribeiro, Singh and Guestrin, "Anchors" (AAAI 2018). The neighbourhood keeps every unit with probability
1/2, so precision(A) is the share of the masks containing A that decide as the whole text does, and
coverage(A) is 2^-|A|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from explain.table import RewardTable
from explain.units import Units

PRECISION = 0.95
SHOWN = 5
COUNTEREXAMPLES = 3


@dataclass(frozen=True)
class Decision:
    """What an anchor explains, as a yes or no: the reward reaches tau, or (strict) exceeds it."""

    tau: float
    strict: bool = False

    def of(self, rewards: np.ndarray) -> np.ndarray:
        """bool array of the shape of the rewards."""
        return rewards > self.tau if self.strict else rewards >= self.tau


@dataclass(frozen=True)
class Anchor:
    """Indices of units, the precision of keeping them, and their coverage 2^-size.

    low, high: KL bounds of a precision that is an estimate, None where it is exact.
    """

    units: tuple[int, ...]
    precision: float
    coverage: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Counterexample:
    """Units whose removal reverses the decision although the anchor stays, the text that is left, its reward."""

    removed: tuple[int, ...]
    text: str
    reward: float


@dataclass(frozen=True)
class BeamCheck:
    """What alibi's beam search, drawing from the same table, found beside the exact answer.

    precision, low, high: its estimate and KL bounds; exact_precision: of the same units, from the table.
    agrees: both found an anchor and the exact precision lies within the bounds, or neither found one.
    """

    found: bool
    units: tuple[int, ...]
    precision: float
    low: float
    high: float
    exact_precision: float
    agrees: bool
    note: str


@dataclass(frozen=True)
class AnchorExplanation:
    """All anchors of one decision that no smaller anchor is part of.

    holds: what the decision is for the whole text; where it is false, the anchors explain the "no".
    base_rate: precision of keeping nothing in particular. anchors: the first few, smallest and most precise
    first; empty means that nothing short of the whole text reaches the threshold, and `closest` then is
    the most precise part of it. count: how many minimal anchors there are. beam: None where it was not
    run, and beam_note says why. counterexamples: of the first anchor, or of the closest part; fewest removals first.

    exact: False where alibi's search found the anchor among more units than can be enumerated; then there is at most
    one, its precision is an estimate with bounds, base_rate is one too, and `draws` masks were drawn.
    """

    units: Units
    decision: Decision
    holds: bool
    threshold: float
    base_rate: float
    anchors: tuple[Anchor, ...]
    count: int
    closest: Anchor | None
    beam: BeamCheck | None = None
    beam_note: str = ""
    counterexamples: tuple[Counterexample, ...] = ()
    exact: bool = True
    draws: int = 0


def precisions(agree: np.ndarray) -> np.ndarray:
    """float[2^d] by mask code (unit j is bit j): the share of each mask's supersets that `agree`."""
    d = agree.size.bit_length() - 1
    sums = agree.astype(np.int64)
    for unit in range(d):  # superset sums, one unit at a time
        by_unit = sums.reshape(-1, 2, 2**unit)
        by_unit[:, 0] += by_unit[:, 1]
    return sums / 2.0 ** (d - _sizes(d))


def exact_anchors(table: RewardTable, decision: Decision, threshold: float = PRECISION) -> AnchorExplanation:
    """Every minimal anchor, by enumeration.

    The whole text is no anchor: it always holds and says nothing. Raises ValueError unless
    0 < threshold <= 1.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"The precision threshold is {threshold}; choose a number above 0 and at most 1.")
    d = len(table.units)
    precision = precisions(agreement(table, decision))
    sizes = _sizes(d)
    reaches = precision >= threshold - 1e-12
    reaches[-1] = False  # the whole text
    minimal = reaches & ~_has_proper_subset(reaches)

    def anchor(code: int) -> Anchor:
        units = tuple(unit for unit in range(d) if code >> unit & 1)
        return Anchor(units, float(precision[code]), 2.0 ** -len(units))

    found = sorted(map(anchor, np.flatnonzero(minimal).tolist()), key=lambda a: (len(a.units), -a.precision, a.units))
    closest = None
    if not found and d > 1:
        part = np.arange(2**d - 1)
        closest = anchor(int(part[np.lexsort((part, sizes[:-1], -precision[:-1]))[0]]))
    return AnchorExplanation(
        units=table.units,
        decision=decision,
        holds=bool(decision.of(table.rewards)[0]),
        threshold=threshold,
        base_rate=float(precision[0]),
        anchors=tuple(found[:SHOWN]),
        count=len(found),
        closest=closest,
        counterexamples=counterexamples(table, decision, found[0] if found else closest),
    )


def counterexamples(
    table: RewardTable, decision: Decision, anchor: Anchor | None, masks: np.ndarray | None = None
) -> tuple[Counterexample, ...]:
    """The masks that keep the anchor and reverse the decision, fewest removals first.

    masks: among which to look, bool[n, d]; None takes all rows of the table.
    """
    if anchor is None:
        return ()
    masks = table.rows if masks is None else masks
    masks = masks[masks[:, list(anchor.units)].all(axis=1)]
    rewards = table.at(masks)
    reversed_ = np.flatnonzero(decision.of(rewards) != decision.of(np.array([table.reward]))[0])
    nearest = reversed_[np.argsort((~masks[reversed_]).sum(axis=1), kind="stable")][:COUNTEREXAMPLES]
    return tuple(
        Counterexample(tuple(np.flatnonzero(~masks[row]).tolist()), table.text(masks[row]), float(rewards[row]))
        for row in nearest
    )


def agreement(table: RewardTable, decision: Decision) -> np.ndarray:
    """bool[2^d] by mask code: whether the masked text decides as the whole text does."""
    decided = decision.of(table.rewards)
    return (decided == decided[0])[::-1]  # row i of the table is code 2^d - 1 - i


def _sizes(d: int) -> np.ndarray:
    """int[2^d]: how many units each mask code keeps."""
    return ((np.arange(2**d)[:, None] >> np.arange(d)) & 1).sum(axis=1)


def _has_proper_subset(marked: np.ndarray) -> np.ndarray:
    """bool[2^d]: whether a proper subset of each mask code is marked."""
    d = marked.size.bit_length() - 1
    below = marked.copy()  # a subset, or the mask itself
    for unit in range(d):
        by_unit = below.reshape(-1, 2, 2**unit)
        by_unit[:, 1] |= by_unit[:, 0]
    proper = np.zeros_like(marked)
    for unit in range(d):
        proper.reshape(-1, 2, 2**unit)[:, 1] |= below.reshape(-1, 2, 2**unit)[:, 0]
    return proper

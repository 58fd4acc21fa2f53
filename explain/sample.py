"""The sampled table, for more units than can be enumerated: masks as LIME draws them, until the weights are sharp."""

from __future__ import annotations

import numpy as np

from explain.ask import Rewards
from explain.masks import draw_masks, lime_distances, lime_kernel
from explain.regress import wls
from explain.table import RewardTable, exact_table, names, table_of
from explain.units import MAX_UNITS

# The largest standard error that is sharp, as a share of the largest weight.
SHARP = 0.1
LEAST = 200


def default_budget(d: int) -> int:
    """How many masks are drawn at most for d units: below ten per unit, the weights of two seeds differ much."""
    return max(2000, 10 * d)


def tabulate(ask: Rewards, seed: int = 0, budget: int | None = None) -> RewardTable:
    """The exact table where every mask can be scored (at most 12 units), else a sampled one."""
    return exact_table(ask) if len(ask.units) <= MAX_UNITS else sampled_table(ask, seed, budget)


def sampled_table(ask: Rewards, seed: int = 0, budget: int | None = None) -> RewardTable:
    """Rewards of masks drawn as LimeTextExplainer draws them, equal masks once, with their counts.

    The sample doubles (from 10 masks per unit, at least 200) until no standard error of LIME's weights exceeds a
    tenth of the largest weight, or `budget` masks are drawn (S-LIME, Zhou et al., KDD 2021, stops so too). The
    whole text and the empty one are always rows. Which masks are drawn depends on the seed alone.

    Raises ValueError for a budget below two masks per unit, which does not determine the weights.
    """
    d = len(ask.units)
    budget = default_budget(d) if budget is None else budget
    if budget < 2 * d:
        advice = f"give {10 * d} or more, or cut into fewer units"
        raise ValueError(f"The budget of {budget} masks is too small for {d} units; {advice}.")
    rng = np.random.default_rng(seed)
    masks = np.array([[True] * d, [False] * d])
    counts = {name: 0 for name in names(masks)} | {names(masks)[0]: 1}  # lime's first row is the text itself
    rewards, drawn = ask(masks), 0
    target = min(budget, max(10 * d, LEAST))
    while True:
        fresh = draw_masks(d, target - drawn, rng)
        drawn = target
        new = []
        for row, name in enumerate(names(fresh)):
            if name not in counts:
                counts[name] = 0
                new.append(row)
            counts[name] += 1
        masks = np.concatenate([masks, fresh[new]])
        rewards = np.concatenate([rewards, ask(fresh[new])])
        draws = np.array(list(counts.values()))  # in the order of their first draw, as the masks are
        if drawn >= budget or _sharp(masks, rewards, draws):
            break
        target = min(budget, 2 * drawn)
    return table_of(ask, rewards, masks, draws)


def _sharp(masks: np.ndarray, rewards: np.ndarray, draws: np.ndarray) -> bool:
    fit = wls(masks.astype(float), rewards, lime_kernel(lime_distances(masks)), draws.astype(float))
    rounding = 1e-9 * max(1.0, float(np.abs(rewards).max()))
    return float(fit.errors.max()) <= max(SHARP * float(np.abs(fit.weights).max()), rounding)

"""What LIME's weights are exactly, and how many tokens a reward model has to read for them: the yardsticks of
``benchmarks.explain``. numpy and lime only.

Exact is what LimeTextExplainer's weights converge to: least squares over all masks, each with its probability of being
drawn and its kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import numpy as np

from explain.ask import Rewards
from explain.lime import fit_lime
from explain.masks import draw_masks, lime_distances, lime_kernel, lime_probabilities
from explain.sample import sampled_table
from explain.table import RewardTable, names, table_of
from explain.units import Units, words

SAMPLES = 5000  # LimeTextExplainer's default
RewardOfMasks = Callable[[np.ndarray], np.ndarray]  # bool[n, d] -> float[n]


# -- tokens -----------------------------------------------------------------------------------------------


def token_floor(prompt: int, units: Sequence[int], masks: np.ndarray) -> int:
    """Tokens that have to be read for masks bool[n, d]: the prompt's once, and of the units' token counts ``units``
    each once for every beginning that it ends (two texts share what is before them as far as they keep the same
    units). Over all masks unit j ends 2^j beginnings."""
    beginnings = {tuple(kept[: count + 1]) for kept in map(np.flatnonzero, masks) for count in range(len(kept))}
    return prompt + sum(units[beginning[-1]] for beginning in beginnings)


def flat_counts(prompt: int, answers: Sequence[int], distinct: Sequence[int]) -> dict[str, int]:
    """Tokens where nothing is shared but what is said; ``answers``: of every drawn text, ``distinct``: of each once."""
    return {
        "naive": sum(prompt + answer for answer in answers),
        "deduplicated": sum(prompt + answer for answer in distinct),
        "prompt_cached": prompt + sum(distinct),
    }


def extrapolated(measured: float, done: int, wanted: int) -> float:
    """What ``wanted`` texts cost where ``done`` of the same kind cost ``measured``."""
    return measured * wanted / done


# -- exact weights ----------------------------------------------------------------------------------------


def exact_weights(masks: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """float[d] from all 2^d masks, by the normal equations: another way than ``explain.lime``'s."""
    design = np.column_stack([np.ones(len(masks)), masks])
    weighted = design.T * (lime_probabilities(masks) * lime_kernel(lime_distances(masks)))
    return np.linalg.solve(weighted @ design, weighted @ rewards)[1:]


def moments(d: int, most: int = 3) -> list[float]:
    """E[kernel z_1 ... z_k] for k = 0 to ``most`` over LIME's draws: both depend only on how many units are kept."""
    kept = np.arange(d + 1)
    drawn = np.where(kept == d, 1.0 / SAMPLES, (SAMPLES - 1) / SAMPLES / d)
    kernel = lime_kernel(100.0 * (1.0 - np.sqrt(kept / d)))
    return [float(sum(drawn[s] * kernel[s] * comb(s, k) / comb(d, k) for s in range(d + 1))) for k in range(most + 1)]


def degree_two(d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A reward of masks: float[d] of units, and float[d, d] of pairs i < j, of which every unit is in about two."""
    rng = np.random.default_rng(seed)
    pairs = np.triu(rng.normal(size=(d, d)) * (rng.random((d, d)) < 2 / (d - 1)), 1)
    return rng.normal(size=d), pairs


def degree_two_rewards(masks: np.ndarray, linear: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    kept = masks.astype(float)
    return kept @ linear + ((kept @ pairs) * kept).sum(1)


def degree_two_weights(linear: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """float[d]: the exact weights of that reward for any d, in closed form.

    Garreau and von Luxburg (AISTATS 2020) solve LIME so: the moments make the normal equations.
    """
    d = len(linear)
    none, one, two, three = moments(d)
    own = pairs.sum(0) + pairs.sum(1)  # of the pairs that a unit is in
    gram = np.full((d + 1, d + 1), two)
    gram[0], gram[:, 0] = one, one
    gram[0, 0] = none
    gram[range(1, d + 1), range(1, d + 1)] = one
    right = one * linear + two * (linear.sum() - linear) + two * own + three * (pairs.sum() - own)
    return np.linalg.solve(gram, np.concatenate([[one * linear.sum() + two * pairs.sum()], right]))[1:]


# -- those that draw --------------------------------------------------------------------------------------


def cut(text: str, d: int) -> Units:
    """A text in d runs of words of nearly equal length."""
    spans = words(text)
    starts = [spans[len(spans) * i // d][0] for i in range(d)]
    return Units(text, tuple(zip(starts, [*starts[1:], len(text)], strict=True)), "runs of words")


def masks_of(texts: Sequence[str], d: int) -> np.ndarray:
    """bool[n, d] of texts whose words are the numbers of the units that they keep."""
    masks = np.zeros((len(texts), d), dtype=bool)
    for row, text in enumerate(texts):
        masks[row, [int(word) for word in text.split()]] = True
    return masks


class MaskScorer:
    """A scorer of such texts by a reward of masks."""

    fingerprint = "benchmarks.explain_errors"

    def __init__(self, d: int, reward: RewardOfMasks) -> None:
        self.d, self.reward = d, reward

    def score(self, prompt: list[dict[str, str]], texts: list[str]) -> list[float]:
        return self.reward(masks_of(texts, self.d)).tolist()


def numbered(d: int) -> str:
    return " ".join(map(str, range(d)))


def by_lime(d: int, reward: RewardOfMasks, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """float[d]: LimeTextExplainer's weights at its defaults, but of all units (its default shows ten)."""
    from lime.lime_text import LimeTextExplainer

    explainer = LimeTextExplainer(
        class_names=["reward"], split_expression=r"\s+", bow=False, mask_string="", random_state=seed
    )
    found = explainer.explain_instance(
        numbered(d),
        lambda texts: reward(masks_of(texts, d))[:, None],
        labels=(0,),
        num_features=d,
        num_samples=samples,
    )
    return in_order(found.local_exp[0], d)


def in_order(found: Sequence[tuple[int, float]], d: int) -> np.ndarray:
    """float[d] of lime's pairs of unit and weight; a unit that it left out has weight 0."""
    weights = np.zeros(d)
    for unit, weight in found:
        weights[unit] = weight
    return weights


def drawn_table(ask: Rewards, draws: int, seed: int) -> RewardTable:
    """As ``explain.sample.sampled_table``, with as many draws as LIME has and no stop before."""
    d = len(ask.units)
    ends = np.array([[True] * d, [False] * d])
    masks = np.concatenate([ends, draw_masks(d, draws - 1, np.random.default_rng(seed))])
    counts = Counter(names(masks))
    counts[names(ends)[1]] -= 1  # a table has the empty text, drawn or not
    first = np.sort(np.unique(np.packbits(masks, axis=1), axis=0, return_index=True)[1])
    return table_of(ask, ask(masks[first]), masks[first], np.array([counts[name] for name in names(masks[first])]))


def largest(weights: Any, exact: np.ndarray) -> float:
    """The largest difference of two vectors of weights."""
    return float(np.abs(np.asarray(weights) - exact).max())


def synthetic(d: int, seeds: int, samples: int = SAMPLES) -> dict[str, Any]:
    """The largest error of a weight on rewards of degree two, over ``seeds`` of them: its mean, and as a share of the
    largest weight; and how many masks were drawn."""
    errors: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    draws: dict[str, list[int]] = {}
    for seed in range(seeds):
        linear, pairs = degree_two(d, seed)
        exact = degree_two_weights(linear, pairs)

        def reward(masks: np.ndarray, linear: np.ndarray = linear, pairs: np.ndarray = pairs) -> np.ndarray:
            return degree_two_rewards(masks, linear, pairs)

        ask = Rewards(MaskScorer(d, reward), [], Units(numbered(d), words(numbered(d))))
        equal, usual = fit_lime(drawn_table(ask, samples, seed)), fit_lime(sampled_table(ask, seed))
        found = {
            "Junto": (equal.weights, equal.draws),
            "Junto, until sharp": (usual.weights, usual.draws),
            "LimeTextExplainer": (by_lime(d, reward, samples, seed), samples),
        }
        for name, (weights, count) in found.items():
            errors.setdefault(name, []).append(largest(weights, exact))
            shares.setdefault(name, []).append(largest(weights, exact) / float(np.abs(exact).max()))
            draws.setdefault(name, []).append(count)
    return {
        name: {
            "max_error": float(np.mean(errors[name])),
            "max_error_se": float(np.std(errors[name]) / np.sqrt(seeds)),
            "share_of_largest": float(np.mean(shares[name])),
            "masks": float(np.mean(draws[name])),
        }
        for name in errors
    }

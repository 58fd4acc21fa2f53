"""The yardsticks of the explainers' benchmark: its exact answers and its floor, by brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from benchmarks import explain_errors as errors
from benchmarks import explain_tables as tables
from benchmarks.explain import where
from explain.ask import Rewards
from explain.lime import fit_lime
from explain.masks import all_masks, draw_masks
from explain.units import Units, words


def tree_size(prompt: int, units: list[int], masks: np.ndarray) -> int:
    """Tokens of the tree of texts that are spelled out: (unit, place in it) is a token, the prompt's come first."""
    nodes = set()
    for mask in masks:
        text = [("prompt", i) for i in range(prompt)]
        text += [(str(unit), i) for unit in np.flatnonzero(mask) for i in range(units[unit])]
        nodes |= {tuple(text[: end + 1]) for end in range(len(text))}
    return len(nodes)


def test_the_token_floor_is_the_size_of_the_tree() -> None:
    rng = np.random.default_rng(0)
    for d in (1, 3, 5):
        units = [int(count) for count in rng.integers(1, 4, d)]
        for masks in (all_masks(d), draw_masks(d, 6, rng)):
            assert errors.token_floor(4, units, masks) == tree_size(4, units, masks)


def test_over_all_masks_the_floor_is_the_closed_form() -> None:
    assert errors.token_floor(256, [16] * 8, all_masks(8)) == 256 + (2**8 - 1) * 128 // 8
    units = [5, 1, 7, 2]
    assert errors.token_floor(10, units, all_masks(4)) == 10 + sum(2**j * count for j, count in enumerate(units))


def test_what_is_not_shared_is_counted_by_hand() -> None:
    found = errors.flat_counts(100, [5, 5, 3], [5, 3])
    assert found == {"naive": 313, "deduplicated": 208, "prompt_cached": 108}


def test_extrapolation_is_exact_where_each_text_costs_the_same() -> None:
    assert errors.extrapolated(100 * 0.25, 100, 5000) == 5000 * 0.25
    assert errors.extrapolated(7.0, 50, 50) == 7.0


def test_a_text_is_cut_into_as_many_units_and_none_of_it_is_lost() -> None:
    text = "  one two,  three\nfour five six seven"
    for d in (1, 3, 7):
        units = errors.cut(text, d)
        assert len(units) == d and "".join(units[i] for i in range(d)) == text
        assert units.render([True] * d) == text
        sizes = [len(units[i].split()) for i in range(d)]
        assert max(sizes) - min(sizes) <= 1


def test_the_moments_are_those_of_all_masks() -> None:
    from explain.masks import lime_distances, lime_kernel, lime_probabilities

    masks = all_masks(6)
    weights = lime_probabilities(masks) * lime_kernel(lime_distances(masks))
    for count, moment in enumerate(errors.moments(6)):
        assert moment == pytest.approx(float((weights * masks[:, :count].all(1)).sum()), rel=1e-12)


def test_the_closed_form_of_degree_two_is_the_fit_over_all_masks() -> None:
    for d, seed in product((4, 7), range(2)):
        linear, pairs = errors.degree_two(d, seed)
        rewards = errors.degree_two_rewards(all_masks(d), linear, pairs)
        exact = errors.exact_weights(all_masks(d), rewards)
        assert errors.largest(errors.degree_two_weights(linear, pairs), exact) < 1e-10
        ask = Rewards(
            errors.MaskScorer(d, lambda masks, a=linear, b=pairs: errors.degree_two_rewards(masks, a, b)),  # type: ignore[misc]
            [],
            Units(errors.numbered(d), words(errors.numbered(d))),
        )
        from explain.sample import tabulate

        assert errors.largest(fit_lime(tabulate(ask)).weights, exact) < 1e-8


def test_a_drawn_table_counts_every_draw_once() -> None:
    d = 4
    ask = Rewards(
        errors.MaskScorer(d, lambda masks: masks.sum(1).astype(float)),
        [],
        Units(errors.numbered(d), words(errors.numbered(d))),
    )
    table = errors.drawn_table(ask, 300, seed=1)
    assert table.draws is not None and table.masks is not None
    assert table.draws.sum() == 300 and table.draws[0] == 1  # the whole text is one of LIME's rows
    assert table.masks[0].all() and not table.masks[1].any()
    assert len({mask.tobytes() for mask in table.masks}) == len(table.masks) <= 2**d
    assert (table.rewards == table.masks.sum(1)).all()
    drawn = draw_masks(d, 299, np.random.default_rng(1))
    counts = [int((drawn == mask).all(1).sum()) for mask in table.masks]
    assert table.draws[1:].tolist() == counts[1:]


def test_limes_package_finds_the_weights_of_a_linear_reward() -> None:
    truth = np.array([2.0, -3.0, 1.0, -1.5, 0.0])
    found = errors.by_lime(5, lambda masks: masks @ truth, samples=1000)
    assert errors.largest(found, truth) < 0.05  # its ridge


def test_errors_on_rewards_of_degree_two_shrink_with_the_masks() -> None:
    few, many = (errors.synthetic(14, seeds=2, samples=samples) for samples in (300, 3000))
    for name in ("Junto", "LimeTextExplainer"):
        assert 0 < many[name]["max_error"] < few[name]["max_error"]
    assert many["Junto"]["masks"] == 3000


def test_ratios_are_of_sums_and_baselines_are_extrapolated() -> None:
    def ours(tokens: int, floor: int, seconds: float, inside: float) -> tables.Row:
        flat = {"naive": 100 * tokens, "deduplicated": 20 * tokens, "prompt_cached": 5 * tokens}
        costs = {"tokens": tokens, "seconds": seconds, "inside": inside, "forwards": 2, "texts": 50, "peak_mb": 3.0}
        return costs | {"floor": floor, "flat": flat, "prompt_tokens": 10, "answer_tokens": 6, "processor": "fast"}

    def baseline(tokens: int, seconds: float) -> tables.Row:
        costs = {"tokens": tokens, "seconds": seconds, "forwards": 5, "texts": 5, "peak_mb": None}
        return costs | {"reward_difference": seconds * 1e-7, "processor": "fast"}

    error = {"processor": "fast", "largest_weight": 2.0, "max_error": {tables.OURS: 0.0, "LimeTextExplainer": 0.25}}
    worse = {"largest_weight": 1.0, "max_error": {tables.OURS: 0.125, "LimeTextExplainer": 0.125}}
    anchor = baseline(900, 30.0) | {"texts": 90, "stopped": False, "precision": 0.9, "exact_precision": 1.0}
    first = {tables.OURS: ours(30, 20, 2.0, 1.5), tables.ONE: baseline(600, 8.0), tables.MANY: baseline(600, 6.0)}
    second = {tables.OURS: ours(10, 8, 2.0, 2.0), tables.ONE: baseline(200, 8.0), tables.MANY: baseline(200, 4.0)}
    first |= {tables.CAPTUM: baseline(500, 1.0), tables.ANCHOR_TEXT: anchor, tables.ERRORS: error}
    second |= {tables.CAPTUM: baseline(500, 1.0), tables.ANCHOR_TEXT: anchor, tables.ERRORS: worse}
    full = {"texts": 5, "tokens": 600, "seconds": 8.0}
    first[tables.FULL] = baseline(6000, 100.0) | {"texts": 50, "first": full}
    found = tables.summary({8: [first, second]}, samples=50)
    eight = found["d8"]
    assert eight["token_ratio"] == 10 * 800 / 40 and eight["time_ratio"] == 10 * 10.0 / 4.0
    assert eight["over_token_floor"] == 1.5 and eight["max_error"] == 0.125
    assert eight["fewer_than_deduplicated"] == 20 and eight["fewer_than_prompt_cached"] == 5
    assert found["overhead_share"] == eight["overhead_share"] == pytest.approx(0.5 / 4.0)
    assert eight["extrapolated_over_full"] == {"tokens": 1.0, "seconds": 0.8}
    assert eight["errors"] == {"largest_weight": 2.0, "max_error": {tables.OURS: 0.125, "LimeTextExplainer": 0.25}}
    assert eight["anchors"]["token_ratio"] == 1800 / 40 and eight["anchors"]["time_ratio"] == 60.0 / 4.0
    assert eight["arms"][tables.OURS]["processors"] == ["fast"]
    first[tables.ANCHOR_TEXT] = anchor | {"processor": "slow"}
    mixed = tables.lines_of("8", tables.summary({8: [first, second]}, samples=50)["d8"])
    assert [line.split()[-2] for line in mixed if line.startswith("AnchorText   ")] == ["-"]
    assert eight["arms"][tables.OURS]["peak_mb"] == 3.0
    assert eight["anchors"]["largest_precision_error"] == pytest.approx(0.1)
    assert any("token ratio 200.0" in line for line in tables.lines_of("8", eight))


def test_errors_beside_fresh_masks_are_means_over_seeds() -> None:
    fresh = {"fresh": 50, "weights": [0.5, -2.0], "standard_error": 0.25, "processor": "fast"}
    seeds = [{tables.OURS: 1.0, "captum": 2.0, "processor": "slow"}, {tables.OURS: 2.0, "captum": 2.0}]
    found = tables.mean_errors(fresh, seeds)
    assert found["max_error"] == {tables.OURS: 1.5, "captum": 2.0}
    assert (found["largest_weight"], found["standard_error"], found["fresh"]) == (2.0, 0.25, 50)


def test_times_that_are_compared_are_of_one_processor() -> None:
    named = {"text": "a", "units": 8}
    known: list[tables.Row] = [named | {"arm": arm, "processor": "old"} for arm in ("ours", "lime")]
    known += [named | {"arm": "ours", "processor": "new"}]
    known += [{"text": "b", "units": 8, "arm": arm, "processor": "new"} for arm in ("ours", "lime")]
    for here in ("new", "other"):
        assert where(known, named, {"ours", "lime"}, here) == "old"
        assert where(known, named, {"ours", "lime", "captum"}, here) == here  # half of a pair is measured again
    assert where(known, named, {"ours"}, "new") == "new"
    assert where(known, named | {"text": "b"}, {"ours", "lime"}, "old") == "new"

"""The measurements of ``benchmarks.explain``, one row each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.engine import Engine
from benchmarks import explain_peers as peers
from benchmarks.explain_errors import (
    SAMPLES,
    MaskScorer,
    by_lime,
    cut,
    drawn_table,
    exact_weights,
    flat_counts,
    largest,
    numbered,
    token_floor,
)
from benchmarks.explain_tables import OURS, SHARP
from benchmarks.explain_texts import Pair
from explain.anchors import PRECISION, Decision
from explain.ask import Rewards
from explain.lime import fit_lime
from explain.masks import all_masks, draw_masks, lime_distances, lime_kernel
from explain.regress import wls
from explain.sample import sampled_table, tabulate
from explain.score import EngineScorer
from explain.text import anchors, explain_table, explain_text, typical_reward
from explain.units import MAX_UNITS, Units

Row = dict[str, Any]


class Counts(NamedTuple):
    """Masks that a baseline is timed on, those that LimeTextExplainer draws, those of the reference for many units,
    the seeds of its comparison, and the words of a long answer."""

    timed: int = 100
    samples: int = SAMPLES
    fresh: int = 50_000
    seeds: int = 3
    long: int = 400


class Bench:
    """One reward model and one pair, and what is measured on them."""

    def __init__(self, engine: Engine, role: str, pair: Pair, seed: int, counts: Counts) -> None:
        self.engine, self.role, self.seed, self.counts = engine, role, seed, counts
        self.scorer = EngineScorer(engine, role)
        self.prompt, self.answer = pair
        self.prompt_ids = engine.backbone.chat.prompt_ids(self.prompt)

    def length(self, text: str) -> int:
        """Tokens of an answer, which is scored at its last token that is not white space."""
        return len(self.engine.backbone.chat.text_ids(text.rstrip()))

    def units(self, d: int) -> Units:
        return cut(self.answer, d)

    def score(self, texts: list[str]) -> list[float]:
        return self.scorer.score(self.prompt, texts)

    def metered(self, start: int | None = None) -> Any:
        return peers.metered(self.engine.backbone, start)

    def unit_ids(self, units: Units) -> list[list[int]]:
        """The tokens of each unit within the whole answer, by how many the text up to its end has."""
        ids = self.engine.backbone.chat.text_ids(units.text.rstrip())
        ends = [self.length(units.text[:end]) for _, end in units.spans]
        return [ids[start:end] for start, end in zip([0, *ends], [*ends[:-1], len(ids)], strict=False)]

    # -- ours ---------------------------------------------------------------------------------------------

    def ours(self, d: int) -> Row:
        """Where every mask is scored, everything that there is from that table: LIME, anchors, Shapley values,
        faithfulness. Else LIME on as many masks as LimeTextExplainer draws."""
        units, before = self.units(d), self.engine.usage.scored
        ask = Rewards(self.scorer, self.prompt, units)
        with self.metered() as meter:
            if d <= MAX_UNITS:
                table = tabulate(ask)
                lime = explain_table(table, beam=False).lime
            else:
                table = drawn_table(ask, self.counts.samples, self.seed)
                lime = fit_lime(table)
        return measured(meter, self.engine.usage.scored - before, self.counts.samples) | {
            "prompt_tokens": len(self.prompt_ids),
            "answer_tokens": self.length(self.answer),
            **self.counted(d, table.rows),
            "tau": typical_reward(table),
            "weights": list(lime.weights),
            **({"rewards": table.rewards.tolist()} if table.exact else {}),
        }

    def counted(self, d: int, scored: np.ndarray | None = None) -> Row:
        """Tokens that LIME's masks come to for those that share nothing, and the ``floor`` of the masks bool[n, d] that
        are scored: None: all of them, or as many as LIME draws. No model is asked."""
        units, rng = self.units(d), np.random.default_rng(self.seed)
        drawn = np.concatenate([np.ones((1, d), dtype=bool), draw_masks(d, self.counts.samples - 1, rng)])
        ask = Rewards(self.scorer, self.prompt, units)
        texts = [ask.text(mask) for mask in drawn]
        lengths = {text: self.length(text) for text in dict.fromkeys(texts)}
        if scored is None:
            scored = all_masks(d) if d <= MAX_UNITS else np.unique(drawn, axis=0)
        sizes = [len(unit) for unit in self.unit_ids(units)]
        return {
            "floor": token_floor(len(self.prompt_ids), sizes, scored),
            "flat": flat_counts(len(self.prompt_ids), [lengths[text] for text in texts], list(lengths.values())),
        }

    def until_sharp(self, d: int) -> Row:
        """What a user gets for as many units: LIME with its own stop, and faithfulness."""
        before = self.engine.usage.scored
        with self.metered() as meter:
            table = sampled_table(Rewards(self.scorer, self.prompt, self.units(d)), self.seed)
            lime = explain_table(table, method="lime", beam=False).lime
        return measured(meter, self.engine.usage.scored - before, lime.draws)

    def our_anchors(self, d: int) -> Row:
        """The search alone, on a table that is there."""
        table = sampled_table(Rewards(self.scorer, self.prompt, self.units(d)), self.seed)
        before = self.engine.usage.scored
        with self.metered() as meter:
            found = anchors(table, Decision(typical_reward(table)), PRECISION, True, self.seed, self.counts.samples)
        row = measured(meter, self.engine.usage.scored - before, found.draws)
        return row | {"found": len(found.anchors), "note": found.beam_note}

    # -- the peers' ---------------------------------------------------------------------------------------

    def lime(self, d: int, batch: int, samples: int, progress: Callable[[int, int], None] | None = None) -> Row:
        """LimeTextExplainer over the pipeline, ``batch`` texts at a time; ``first``: what as many of them took as a
        baseline is timed on."""
        seen: dict[str, float] = {}
        first: Row = {}
        with peers.pipelines(self.engine.backbone, self.role) as pipe:
            predict = peers.predictor(pipe(batch), self.engine.backbone, self.prompt)

            def score(texts: list[str]) -> list[float]:
                found: list[float] = []
                began = time.perf_counter()
                while len(found) < len(texts):
                    found += predict(texts[len(found) : len(found) + self.counts.timed])
                    if not first:
                        seconds = time.perf_counter() - began
                        first.update(texts=len(found), tokens=meter.tokens, seconds=seconds)
                    if progress is not None:
                        progress(len(found), len(texts))
                seen.update(zip(texts, found, strict=True))
                return found

            with self.metered() as meter:
                weights = peers.lime_text(score, self.units(d), samples, self.seed)
        return measured(meter, meter.tokens, samples) | {
            "first": first,
            "weights": weights.tolist(),
            "reward_difference": largest(self.score(list(seen)), np.array(list(seen.values()))),
        }

    def captum(self, d: int, samples: int) -> Row:
        unit_ids = self.unit_ids(self.units(d))
        with peers.pipelines(self.engine.backbone, self.role) as pipe:
            reward = peers.captum_reward(pipe(1), self.prompt_ids, unit_ids)
            with self.metered() as meter:
                peers.captum_lime(d, reward, samples, self.seed)
        return measured(meter, meter.tokens, samples)

    def anchor_text(self, d: int, tau: float) -> Row:
        """AnchorText is answered by our engine, which gives the same rewards; of the texts that it asks for, the first
        hundred go through the pipeline, one at a time. Time and forwards of all are extrapolated, tokens counted. Where
        all masks are scored, the precision of what it found is known exactly. It would go on for as long as it takes;
        at four times LIME's masks it is stopped, and its row is then a lower bound."""
        units, known = self.units(d), {}

        def score(texts: list[str]) -> list[float]:
            known.update(self._missing(texts, known))
            return [known[text] for text in texts]

        with self.metered() as search:
            found = peers.anchor_text(score, units, tau, self.seed, most=4 * self.counts.samples)
        lengths = {text: self.length(text) for text in found.asked}
        some = found.asked[: self.counts.timed]
        with peers.pipelines(self.engine.backbone, self.role) as pipe:
            predict = peers.predictor(pipe(1), self.engine.backbone, self.prompt)
            with self.metered() as meter:
                predict(some)
        times = len(found.asked) / len(some)
        row: Row = {
            "texts": len(found.asked),
            "tokens": sum(len(self.prompt_ids) + lengths[text] for text in found.asked),
            "seconds": found.seconds + meter.seconds * times,
            "forwards": meter.forwards * times,
            "peak_mb": search.peak_mb and meter.peak_mb and max(search.peak_mb, meter.peak_mb),
            "stopped": found.units is None,
        }
        if d <= MAX_UNITS and found.units is not None:
            row["precision"] = found.precision
            row["exact_precision"] = peers.anchor_precision(score, units, tau, found.units)
        return row

    def _missing(self, texts: list[str], known: dict[str, float]) -> dict[str, float]:
        wanted = [text for text in dict.fromkeys(texts) if text not in known]
        return dict(zip(wanted, self.score(wanted), strict=True)) if wanted else {}

    # -- errors -------------------------------------------------------------------------------------------

    def exact_errors(self, ours: Row) -> Row:
        """The largest error of a weight where all masks have their rewards, which answer the peers as well."""
        rewards = np.array(ours["rewards"])
        d = len(ours["weights"])
        exact = exact_weights(all_masks(d), rewards)

        def reward(masks: np.ndarray) -> np.ndarray:
            return rewards[2**d - 1 - masks @ (1 << np.arange(d))]

        return {
            "largest_weight": float(np.abs(exact).max()),
            "max_error": {
                OURS: largest(ours["weights"], exact),
                "LimeTextExplainer": largest(by_lime(d, reward, seed=self.seed), exact),
                "captum": largest(peers.captum_of_masks(d, reward, self.seed), exact),
            },
        }

    def fresh_weights(self, d: int, folder: Path) -> Row:
        """The weights of many other masks than the explainers', and their largest standard error; the rewards are kept
        in ``folder``."""
        fresh = self.counts.fresh
        whole = fresh // SAMPLES  # of so many draws one is the text itself
        drawn = draw_masks(d, fresh - whole, np.random.default_rng([self.seed, fresh]))
        masks, counts = np.unique(np.concatenate([np.ones((whole, d), bool), drawn]), axis=0, return_counts=True)
        rewards = self._fresh(d, folder)(masks)
        found = wls(masks.astype(float), rewards, lime_kernel(lime_distances(masks)), counts.astype(float))
        return {"fresh": fresh, "weights": found.weights.tolist(), "standard_error": float(found.errors.max())}

    def fresh_errors(self, d: int, folder: Path, weights: list[float], seed: int) -> dict[str, float]:
        """Each explainer's largest error beside these weights; one reward answers all."""
        ask, samples, reference = self._fresh(d, folder), self.counts.samples, np.array(weights)
        found: dict[str, Any] = {
            OURS: fit_lime(drawn_table(ask, samples, seed)).weights,
            SHARP: fit_lime(sampled_table(ask, seed)).weights,
            "LimeTextExplainer": by_lime(d, ask, samples, seed),
            "captum": peers.captum_of_masks(d, ask, seed, samples),
        }
        return {name: largest(one, reference) for name, one in found.items()}

    def _fresh(self, d: int, folder: Path) -> Rewards:
        return Rewards(self.scorer, self.prompt, self.units(d), folder, progress=rate(f"{d} units, fresh masks"))


def measured(meter: peers.Meter, tokens: int, texts: int) -> Row:
    """A row of what was measured; ``texts`` are the masks that it stands for."""
    return {
        "texts": texts,
        "tokens": tokens,
        "seconds": meter.seconds,
        "inside": meter.inside,
        "forwards": meter.forwards,
        "peak_mb": meter.peak_mb,
    }


def long_answer(bench: Bench, text: str, units: str, start: int | None) -> Row:
    """Peak memory of explaining a long answer, above ``start`` bytes, those of the model, and ``imports_mb`` of it for
    what is imported: everything where all masks are scored, LIME where they are drawn."""
    explain_text(MaskScorer(2, lambda masks: masks.sum(1).astype(float)), [], numbered(2), units="words", beam=False)
    imported = peers.forget_peak()
    before = bench.engine.usage.scored
    method = "all" if units == "auto" else "lime"
    say = rate(f"a long answer, {units}")
    with bench.metered(start) as meter:
        found = explain_text(bench.scorer, bench.prompt, text, units=units, method=method, beam=False, progress=say)
    return measured(meter, bench.engine.usage.scored - before, found.lime.masks) | {
        "units": len(found.lime.weights),
        "imports_mb": None if start is None or imported is None else (imported - start) / 2**20,
    }


def rate(what: str) -> Callable[[int, int], None]:
    """A progress line with texts a second, every ten seconds."""
    began = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal began, last
        now = time.monotonic()
        if now - last >= 10:
            print(f"{what}: {done}/{total} texts, {done / (now - began):.1f}/s", file=sys.stderr, flush=True)
            last = now
        if done == total:
            began = now

    return progress

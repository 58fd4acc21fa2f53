"""The words that a reward model goes by, over a data set: LIME on a sample of its answers, what the weights come to
word by word, and which answers to read (SP-LIME)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from explain.ask import Message, Progress, Rewards, Scorer, shown_question
from explain.lime import fit_lime
from explain.pick import Picked, UnitWeight, aggregate, pick, rewarded, weighted
from explain.sample import LEAST, tabulate
from explain.units import MAX_SAMPLED, segment, words

KEPT = 30  # words, besides those that are rewarded or punished for sure
READ = 5  # answers that are picked


def by_word(
    scorer: Scorer,
    asked: Sequence[tuple[list[Message], str]],
    sd: float,
    seed: int = 0,
    level: float = 0.005,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[list[UnitWeight], list[Picked], int]:
    """Words over the answers, the most important first; the answers to read; and how many were explained, those that
    are neither blank nor longer than 500 words.

    Weights are in units of `sd`. An answer gets about 200 masks: its own weights are rough, and their means over
    answers are what counts. Raises what `Rewards` raises.
    """
    fit = [(prompt, text) for prompt, text in asked if 1 <= len(words(text)) <= MAX_SAMPLED]
    found = []
    for done, (prompt, text) in enumerate(fit, 1):
        units = segment(text, "words")
        lime = fit_lime(tabulate(Rewards(scorer, prompt, units, cache_dir), seed, max(LEAST, 2 * len(units))))
        found.append([(unit, weight / sd) for unit, weight in weighted(lime)])
        if progress is not None:
            progress(done, len(fit))
    every = aggregate(found)
    up, down = rewarded(every, level)
    kept = [unit for at, unit in enumerate(every) if at < KEPT or unit in up or unit in down]
    chosen = pick(found, READ)
    picks = [
        Picked(shown_question(fit[text][0]), tuple(found[text]), share)
        for text, share in zip(chosen.texts, chosen.coverage, strict=True)
    ]
    return kept, picks, len(fit)

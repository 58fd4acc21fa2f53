"""Which surface features a reward model rewards, over a data set.

Two kinds of evidence, kept apart. What is seen in the data: the feature's part in the reward beside its part in
people's judgement, other features held fixed by a linear model. What a probe does: the reward of one answer with and
without the feature. All tests together are corrected by Holm's method (1979) at the family's level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from explain.ask import Message, Progress, Scorer, finite
from explain.audit_features import NAMES, POSITION, measure
from explain.audit_judge import judge
from explain.audit_observe import observe
from explain.audit_probes import PROBES, Change, change
from explain.audit_result import Audit, Probe
from explain.audit_rewards import Asked, Comparer, rewards_of
from explain.audit_stats import mean_effect
from explain.audit_units import by_word

LEVEL = 0.005  # of all tests of one audit together
MIN_EFFECT = 0.2  # standard deviations: Cohen's small effect


@dataclass(frozen=True)
class Example:
    """A prompt with one answer, or with two in the order in which they were shown.

    label: of two answers, 1 where people preferred the first and -1 where the second; of one answer, its score by
    people; None where nobody judged. ordered: whether the order of the two is the one in which people saw them.
    """

    prompt: list[Message]
    texts: tuple[str, ...]
    label: float | None = None
    ordered: bool = False


def audit(
    scorer: Scorer,
    examples: Sequence[Example],
    *,
    probes: int = 64,
    explained: int = 0,
    seed: int = 0,
    level: float = LEVEL,
    min_effect: float = MIN_EFFECT,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit a scorer on examples, all pairs or all single answers.

    probes: on how many examples, drawn by `seed`, answers are changed and scored again (about twenty texts each).
    explained: on how many of them LIME looks at one answer word by word (some 200 texts each). cache_dir, progress: as
    in `explain.table.fill`.

    Raises ValueError (one sentence) for no examples, for pairs and single answers together, and where the scorer does
    not answer finite numbers.
    """
    kind = _kind(examples)
    chosen = _draw(examples, probes, seed)
    plans = {row: _changes(examples[row].texts[turn % len(examples[row].texts)], turn) for turn, row in chosen}
    asked: list[Asked] = []
    for row, example in enumerate(examples):
        asked += [(example.prompt, text) for text in example.texts]
        asked += [(example.prompt, text) for made in plans.get(row, {}).values() for text in _texts(made)]
    found_rewards = rewards_of(scorer, asked, cache_dir, progress)
    known = dict(zip(map(_key, asked), found_rewards, strict=True))
    rewards = np.array([[known[_key((e.prompt, text))] for text in e.texts] for e in examples])
    sd = float(rewards.std(ddof=1)) if np.ptp(rewards) > 0 else 0.0
    unit = sd or 1.0
    found: dict[str, Probe] = {}
    for name in NAMES:
        made = [(examples[row].prompt, plan[name]) for row, plan in plans.items() if name in plan]
        changes = [(known[_key((p, c.more))] - known[_key((p, c.less))]) / unit for p, c in made]
        beyond = [(known[_key((p, c.more))] - known[_key((p, c.control))]) / unit for p, c in made if c.control]
        found[name] = Probe(PROBES[name][0], mean_effect(changes), mean_effect(beyond) if beyond else None)
    if kind == "pairs" and isinstance(scorer, Comparer):
        rewards = np.array([_side_by_side(scorer, e) for e in examples])
        found[POSITION] = _exchanged(scorer, [examples[row] for _, row in chosen], unit)
    looked_at = [
        (examples[row].prompt, examples[row].texts[turn % len(examples[row].texts)])
        for turn, row in _draw(examples, explained, seed)
    ]
    units, picks, count = by_word(scorer, looked_at, unit, seed, level, cache_dir, progress)
    seen, present = observe(
        rewards,
        np.stack([measure([e.texts[side] for e in examples]) for side in range(rewards.shape[1])], axis=1),
        np.array([np.nan if e.label is None else e.label for e in examples]),
        np.array([e.ordered for e in examples]),
    )
    result = Audit(
        data=kind,
        rows=len(examples),
        labelled=sum(e.label is not None for e in examples),
        sd=sd,
        probed=len(chosen),
        tests=0,
        level=level,
        min_effect=min_effect,
        findings=(),
        scorer=scorer.fingerprint,
        notes=_notes(scorer, sd, kind),
        units=tuple(units),
        picks=tuple(picks),
        explained=count,
    )
    return judge(result, seen, found, present)


def _kind(examples: Sequence[Example]) -> str:
    if not examples:
        raise ValueError("There is nothing to audit: the data are empty.")
    sizes = {len(example.texts) for example in examples}
    if sizes not in ({1}, {2}):
        raise ValueError("An audit takes pairs of answers or single answers, not both together.")
    return "pairs" if sizes == {2} else "texts"


def _draw(examples: Sequence[Example], probes: int, seed: int) -> list[tuple[int, int]]:
    """(running number, row) of the rows that are probed, in the order of the rows."""
    drawn = np.random.default_rng(seed).permutation(len(examples))[:probes]
    return list(enumerate(sorted(drawn.tolist())))


def _changes(text: str, turn: int) -> dict[str, Change]:
    return {name: made for name in NAMES if (made := change(name, text, turn)) is not None}


def _texts(made: Change) -> list[str]:
    return [text for text in (made.less, made.more, made.control) if text is not None]


def _key(asked: Asked) -> tuple[tuple[str, ...], str]:
    return tuple(part for message in asked[0] for part in message.values()), asked[1]


def _side_by_side(judge_of_two: Comparer, example: Example) -> list[float]:
    """The rewards of both answers in the order in which they were shown, or, where nobody knows it, over both orders:
    the preferred one stands first in such a row."""
    a, b = example.texts
    found = finite(judge_of_two.compare(example.prompt, a, b), 2)
    if example.ordered:
        return found
    turned = finite(judge_of_two.compare(example.prompt, b, a), 2)
    return [(found[0] + turned[1]) / 2, (found[1] + turned[0]) / 2]


def _exchanged(judge_of_two: Comparer, examples: Sequence[Example], unit: float) -> Probe:
    """What standing first is worth: half of what a pair's margin changes when the two are exchanged."""
    advantages = []
    for example in examples:
        a, b = example.texts
        first, second = finite(judge_of_two.compare(example.prompt, a, b), 2)
        other, one = finite(judge_of_two.compare(example.prompt, b, a), 2)
        advantages.append(((first - second) + (other - one)) / 2 / unit)
    return Probe("the two answers exchanged", mean_effect(advantages))


def _notes(scorer: Scorer, sd: float, kind: str) -> tuple[str, ...]:
    notes = [str(getattr(scorer, "note", ""))]
    if sd == 0.0:
        notes.append("Every text of the data has the same reward.")
    if kind == "pairs" and not isinstance(scorer, Comparer):
        notes.append("This reward model scores every answer alone, so it cannot see which of two was shown first.")
    return tuple(note for note in notes if note)

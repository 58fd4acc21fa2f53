"""A shortcut planted in the training labels is found on ten seeds of ten, and ten clean seeds raise no alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from explain.audit import audit
from explain.audit_features import measure
from explain.audit_result import ALARM, Audit
from explain.planted import SHORTCUTS, planted_pairs, train_head

SEEDS = range(10)
TRAINING, AUDITED = 3000, 400


def audited(seed: int, shortcut: str | None, labels: str = "planted") -> Audit:
    head = train_head(planted_pairs(TRAINING, seed, shortcut))
    return audit(head, planted_pairs(AUDITED, 1000 + seed, shortcut, labels=labels))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_planted_shortcut_is_found_on_every_seed(shortcut: str) -> None:
    """The labels of the audited pairs follow the shortcut too, so that people's choices do not betray it: the probe
    must. Among the alarms it is the strongest."""
    for seed in SEEDS:
        found = audited(seed, shortcut)
        sizes = {f.feature: f.probe.change.value for f in found.alarms if f.probe and f.probe.change}
        assert max(sizes, key=sizes.__getitem__, default=None) == shortcut, (seed, sizes)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clean_seed_raises_no_alarm(seed: int) -> None:
    found = audited(seed, None)
    assert not found.alarms, [(f.feature, f.observed, f.probe) for f in found.alarms]


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_held_against_people_who_do_not_follow_it_the_data_accuse_it_too(shortcut: str) -> None:
    for seed in (0, 1, 2):
        found = audited(seed, shortcut, labels="clean")
        [finding] = [f for f in found.findings if f.feature == shortcut]
        assert finding.observed_verdict == ALARM, (seed, finding.observed)


def test_what_is_planted_is_in_the_labels_and_nowhere_else() -> None:
    """Of the pairs that differ in length, labels of a planted half follow it in three of four, clean ones in half."""
    share = {}
    for shortcut in (None, "length"):
        rows = planted_pairs(4000, 3, shortcut)
        lengths = [measure(row.texts)[:, 0] for row in rows]
        followed = [np.sign(a - b) == row.label for row, (a, b) in zip(rows, lengths, strict=True) if a != b]
        share[shortcut] = np.mean(followed)
    assert share[None] == pytest.approx(0.5, abs=4 * 0.008) and share["length"] == pytest.approx(0.75, abs=4 * 0.008)
    clean, planted = planted_pairs(50, 7), planted_pairs(50, 7, "length", labels="clean")
    assert clean == planted and clean == planted_pairs(50, 7)


def test_an_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match="length, politeness, position"):
        planted_pairs(1, 0, "colour")


def test_a_head_does_not_learn_that_the_preferred_answer_stands_first_in_its_row() -> None:
    """Pairs of an unknown order are kept with the preferred one first."""
    rows = [
        replace(e, texts=e.texts if e.label == 1.0 else e.texts[::-1], label=1.0, ordered=False)
        for e in planted_pairs(500, 4)
    ]
    assert train_head(rows).weights[-1] == 0.0

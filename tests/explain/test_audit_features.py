"""What each feature counts, and that a probe changes its own feature and no other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from explain.audit_features import FEATURES, NAMES, POSITION, measure, word_count
from explain.audit_probes import NEUTRAL, PROBES, change, pad

COUNTS = {  # text -> the features that are not 0, before the logarithm
    "": {},
    "one two three": {"length": 3},
    "Please do. Thank you! You’re welcome.": {"length": 6, "politeness": 3, "exclamation": 1},
    "Perhaps I think it might, maybe": {"length": 6, "hedges": 4},
    "I’m sorry, but I can't help. As an AI, I cannot.": {"length": 11, "refusal": 3},
    "- one\n* two\n 3. three\nfour 4.": {"length": 6, "lists": 3, "digits": 2},
    "**bold** and __bold__, 2 * 3 * 4": {"length": 6, "bold": 1, "digits": 3},
    "# One\n## Two\nC# is #1": {"length": 5, "headers": 2, "digits": 1},
    "`a` and ```b```": {"length": 3, "code": 3},
    "Wow!! \U0001f600": {"length": 1, "exclamation": 3},
    "你好吗": {"length": 3},
    "pleased mighty unlikely": {"length": 3},  # parts of words are not the words
}


@pytest.mark.parametrize("text", COUNTS)
def test_what_is_counted(text: str) -> None:
    found = dict(zip(NAMES, measure([text])[0], strict=True))
    for name in NAMES[:-1]:
        assert found[name] == pytest.approx(math.log1p(COUNTS[text].get(name, 0))), name
    assert found["repetition"] == 0


def test_repetition_by_hand() -> None:
    # a b c d a b c d: six trigrams, abc bcd cda dab abc bcd, two of them again
    assert measure(["A b c d a b c d"])[0, -1] == pytest.approx(2 / 6)
    assert measure(["no no", "no no no no"])[:, -1] == pytest.approx([0, 1 / 2])


TEXTS = (
    "The kettle holds two litres. Fill it with water and descale it every 3 weeks.",
    "- Fill it.\n- Wait 10 minutes.\n\n**Note**: `rinse` twice! I cannot say more, please ask.",
    "# Kettle\nPerhaps wait.",
    "Ja",
    "水很热。倒掉。",
    "1. Fill two litres.\n2. Wait 10 minutes, or `three`, or 4 hours.",
    "Run it:\n\n```python\nprint(x)\n```\nIt prints two numbers.",
    "<b>&amp; \U0001f600</b>\n\n\n",
)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_probe_adds_its_own_feature_and_its_control_does_not(name: str, text: str) -> None:
    column = NAMES.index(name)
    for turn in range(12):
        made = change(name, text, turn)
        if made is None:
            continue
        less, more = measure([made.less, made.more])
        if name != "repetition" or word_count(text) > 4:  # of a short answer said twice no trigram need come again
            assert more[column] > less[column]
        if made.control is not None:
            plain, control = measure([text, made.control])
            assert made.less == text
            assert control[column] <= plain[column] and word_count(made.control) >= word_count(made.more)
        elif name != "length":
            assert word_count(made.more) == word_count(made.less)
            still = [i for i in range(len(FEATURES)) if i != column and NAMES[i] != "repetition"]
            assert np.allclose(less[still], more[still])


@pytest.mark.parametrize("sentence", NEUTRAL)
def test_neutral_sentences_have_no_feature_but_length(sentence: str) -> None:
    assert np.flatnonzero(measure([sentence])[0]).tolist() == [NAMES.index("length")]


def test_padding_is_as_long_as_is_asked_for() -> None:
    for extra in (0, 1, 11, 12, 40):
        grown = word_count(pad("Yes.", extra)) - 1
        assert extra <= grown <= extra + 12 and (extra or grown == 0)
    assert pad("Yes.", 1, front=True).endswith(" Yes.")


def test_what_cannot_be_changed_has_no_probe() -> None:
    assert all(change(name, blank, 0) is None for name in NAMES for blank in ("", " \n"))
    assert change("digits", "no number", 0) is None and change("bold", "1 2", 0) is None
    assert set(PROBES) == set(NAMES) and POSITION not in NAMES

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.ask import Rewards, question, with_question
from explain.masks import all_masks
from explain.perturb import PERTURBATIONS, fill_in, placeholder, remove, renderer
from explain.table import RewardTable, exact_table
from explain.units import KINDS, Units, segment

awkward = st.text(
    st.sampled_from(list("ab1.!?,;:- \t\n\r\x0b\x85\u00a0\u2028—。，きい漢👩\u200d\u0301<&'\"{}()")) | st.characters()
)
kinds = st.sampled_from(list(KINDS))


@given(awkward.filter(str.strip), kinds)
def test_with_everything_on_the_text_is_the_text_byte_for_byte(text: str, kind: str) -> None:
    units = segment(text, kind)
    on = [True] * len(units)
    assert remove(units, on) == placeholder(units, on) == fill_in(units, on, lambda pieces, which: []) == text


def bare(text: str) -> str:
    """Without what a repair may take away: white space and hanging separators."""
    return "".join(char for char in text if not char.isspace() and char not in ",;:-–—")


@given(awkward.filter(str.strip), kinds, st.data())
def test_a_removal_takes_its_units_and_leaves_the_rest(text: str, kind: str, data: st.DataObject) -> None:
    units = segment(text, kind)
    mask = data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
    got = remove(units, mask)
    assert bare(got) == bare(units.render(mask))
    assert "  " not in got or "  " in text
    assert not got.strip() or got[len(got.rstrip()) :] == text[len(text.rstrip()) :]
    assert len(got) <= len(text)


@pytest.mark.parametrize(
    ("text", "kind", "mask", "expected"),
    [
        ("Yes, I can, and I will.", "phrases", "110", "Yes, I can"),  # no comma before nothing
        ("Yes, I can, and I will.", "phrases", "011", "I can, and I will."),
        ("Yes, I can, and I will.", "phrases", "101", "Yes, and I will."),
        ("a b c", "words", "110", "a b"),
        ("a b c\n", "words", "110", "a b\n"),
        ("if x:\n    return 1\nelse:\n    return 2", "steps", "1011", "if x:\nelse:\n    return 2"),
        ("if x:\n    return 1\nelse:\n    return 2", "steps", "0101", "    return 1\n    return 2"),
        ("One, two\nthree", "words", "101", "One\nthree"),
        ("well-known fact", "words", "10", "well-known"),
        ("say it: now", "words", "110", "say it"),
        ("a b", "words", "00", ""),
        ("if a != b:", "words", "1011", "if != b:"),  # a mark that begins a word separates nothing
        ("edit the .env file", "words", "1011", "edit .env file"),
        ("Hi :) there", "words", "011", ":) there"),
        ("use ::before here", "words", "011", "::before here"),
        ("One sentence. Another one! .NET is third.", "sentences", "101", "One sentence. .NET is third."),
        ("Stop now !", "words", "101", "Stop!"),
    ],
)
def test_repairs_by_hand(text: str, kind: str, mask: str, expected: str) -> None:
    assert remove(segment(text, kind), [digit == "1" for digit in mask]) == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("111", "Do this.\n  Then that. End."),
        ("101", "Do this.\n  ... End."),
        ("100", "Do this.\n  ..."),
        ("000", "..."),
    ],
)
def test_placeholders_collapse(mask: str, expected: str) -> None:
    units = Units("Do this.\n  Then that. End.", ((0, 9), (9, 22), (22, 26)))
    assert placeholder(units, [digit == "1" for digit in mask]) == expected


def test_frozen_text_between_removed_units_stays_once() -> None:
    units = Units("keep drop keep drop keep", ((5, 9), (15, 19)))
    assert remove(units, [False, False]) == "keep keep keep" == remove(units, [False, True]).replace(" drop", "")
    assert placeholder(units, [False, False]) == "keep ... keep ... keep"


@given(
    st.lists(st.sampled_from(["a", "b,", "::", ",", ";", "-", ":)", ".", "c.", " ", "\n"]), max_size=12), st.randoms()
)
def test_what_is_frozen_is_never_repaired_away(parts: list[str], draws) -> None:
    text, spans, frozen = "", [], []
    for part in parts:
        (spans if draws.random() < 0.6 else frozen).append((len(text), len(text) + len(part)))
        text += part + draws.choice(["", " "])
    units = Units(text, tuple(spans))
    for _ in range(8):
        left = remove(units, [draws.random() < 0.5 for _ in spans])
        for start, end in frozen:  # in order
            part = text[start:end].strip()
            assert part in left
            left = left[left.index(part) + len(part) :]


class Fills:
    fingerprint = "fills"

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[int]]] = []

    def __call__(self, pieces, which):
        self.asked.append((pieces, which))
        return [f"<{unit}>" for unit in which]


class Lengths:
    fingerprint = "lengths"

    def score(self, prompt, texts):
        return [float(len(text) + len(prompt[-1]["content"])) for text in texts]


def test_infills_are_asked_once_and_kept(prompt, tmp_path: Path) -> None:
    fills, units = Fills(), segment("a b c", "words")
    table = exact_table(Rewards(Lengths(), prompt, units, tmp_path, perturbation="infill", infill=fills))
    assert len(fills.asked) == 7 and (["", "b ", ""], [0, 2]) in fills.asked  # not for the text itself
    assert table.text(np.array([False, True, False])) == "<0>b <2>"
    again = Fills()
    exact_table(Rewards(Lengths(), prompt, units, tmp_path, perturbation="infill", infill=again))
    assert again.asked == []
    again.fingerprint = "another policy"
    exact_table(Rewards(Lengths(), prompt, units, tmp_path, perturbation="infill", infill=again))
    assert len(again.asked) == 7
    kept = RewardTable.from_json(table.to_json())
    with pytest.raises(ValueError, match="needs something that fills gaps"):
        kept.text(np.array([True, False, True]))
    with pytest.raises(ValueError, match="1 texts for 2 gaps"):
        fill_in(units, [False, True, False], lambda pieces, which: ["x"])


def test_a_perturbation_that_cannot_be_is_refused() -> None:
    units = segment("a b")
    with pytest.raises(ValueError, match=f"'mask'; choose one of {', '.join(PERTURBATIONS)}"):
        renderer("mask", units)
    with pytest.raises(ValueError, match="swap needs a pair"):
        renderer("swap", units)
    with pytest.raises(ValueError, match="infill needs something"):
        renderer("infill", units)


@pytest.mark.parametrize("each", [False, True])
def test_the_prompt_can_be_explained_and_the_response_stays(tmp_path: Path, each: bool) -> None:
    seen = []

    class Scorer:
        fingerprint = "asks"

        def score(self, prompt, texts):
            seen.extend((prompt, text) for text in texts)
            return [float(len(prompt[1]["content"].split())) for _ in texts]

    class Each(Scorer):
        def score_each(self, prompts, texts):
            return [self.score(prompt, [text])[0] for prompt, text in zip(prompts, texts, strict=True)]

    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "why so blue"}]
    scorer = Each() if each else Scorer()
    ask = Rewards(scorer, prompt, segment(question(prompt)), tmp_path, response="Because.")
    table = exact_table(ask)
    assert table.rewards.tolist() == all_masks(3).sum(axis=1).tolist()
    assert {text for _, text in seen} == {"Because."} and {p[0]["content"] for p, _ in seen} == {"S"}
    assert len(seen) == 8
    exact_table(Rewards(scorer, prompt, segment(question(prompt)), tmp_path, response="Because."))
    assert len(seen) == 8
    assert with_question(prompt, "how")[1] == {"role": "user", "content": "how"}
    assert prompt[1]["content"] == "why so blue"
    with pytest.raises(ValueError, match="no user message"):
        question(prompt[:1])

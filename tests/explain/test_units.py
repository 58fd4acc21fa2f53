from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.masks import all_masks
from explain.units import KINDS, MAX_UNITS, Units, segment

# Characters at which text handling breaks: line ends of all kinds, white space of all kinds, marks, scripts.
awkward = st.text(
    st.sampled_from(list("ab1.!? \t\n\r\x0b\x0c\x1c\x85\u00a0\u2028\u3000。きい漢👩\u200d\u0301<&'\""))
    | st.characters()
)


@given(awkward)
def test_every_cut_gives_the_text_back_byte_for_byte(text: str) -> None:
    for cut in KINDS.values():
        spans = cut(text)
        units = Units(text, spans)
        assert units.render([True] * len(units)) == text
        if spans:  # the spans tile the text, each with something in it to remove
            assert "".join(units[unit] for unit in range(len(units))) == text
            assert all(units[unit].strip() for unit in range(len(units)))
            assert units.render([False] * len(units)) == ""
        else:
            assert not text.strip()


@given(awkward.filter(str.strip), st.integers(1, MAX_UNITS), st.data())
def test_masks_concatenate_the_kept_units_in_order(text: str, most: int, data: st.DataObject) -> None:
    units = segment(text, max_units=most)
    assert 1 <= len(units) <= most
    mask = data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
    assert units.render(mask) == "".join(units[unit] for unit in range(len(units)) if mask[unit])


def test_text_between_spans_is_never_removed() -> None:
    units = Units("keep drop keep", ((5, 10),))
    assert units.render([False]) == "keep keep"


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("10 - 4 = 6\n\n6 * 4 = 24\n", "steps", ["10 - 4 = 6\n\n", "6 * 4 = 24\n"]),
        ("\n  a\r\nb", "steps", ["\n  a\r\n", "b"]),
        ("It is 3.5 m. Is it? Yes!", "sentences", ["It is 3.5 m. ", "Is it? ", "Yes!"]),
        ("1. First, e.g. this.\n2. Then.", "sentences", ["1. First, e.g. this.\n", "2. Then."]),
        ('He said "No." Then left...', "sentences", ['He said "No." ', "Then left..."]),
        ("水。火！", "sentences", ["水。", "火！"]),
        (" I don't\tknow ", "words", [" I ", "don't\t", "know "]),
        ("水火 ok", "words", ["水", "火 ", "ok"]),
    ],
)
def test_cuts_by_hand(text: str, kind: str, expected: list[str]) -> None:
    units = segment(text, kind)
    assert [units[unit] for unit in range(len(units))] == expected


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [
        ("a\nb", "steps", 2),
        ("One. Two.", "sentences", 2),
        ("one two three", "words", 3),
        ("one", "words", 1),
        ("\n".join("abcdefghijklmnop"), "merged steps", 12),
        ("w " * 100, "merged words", 12),
    ],
)
def test_auto_takes_the_coarsest_cut_with_two_units(text: str, kind: str, count: int) -> None:
    units = segment(text)
    assert (units.kind, len(units)) == (kind, count)
    sizes = [len(units[unit].split()) for unit in range(len(units))]
    assert max(sizes) - min(sizes) <= 1  # merged evenly


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("Some words. " * 7, "words", "The response has 14 words, more than 12; choose sentences."),
        (
            "w " * 13,
            "words",
            "The response has 13 words, more than 12; choose auto, which merges neighbours.",
        ),
        (" \n", "auto", "There is nothing to explain: the response is empty."),
        ("a", "tokens", "Unknown units 'tokens'; choose one of auto, steps, sentences, words."),
    ],
)
def test_refusals_say_what_to_choose(text: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        segment(text, kind)
    assert str(refusal.value) == message


def test_all_masks_are_all_different_and_start_with_everything() -> None:
    masks = all_masks(5)
    assert masks[0].all() and not masks[-1].any()
    assert len(np.unique(masks, axis=0)) == 32

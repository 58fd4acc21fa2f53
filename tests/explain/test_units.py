from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.align import diff_units
from explain.masks import all_masks
from explain.perturb import swap
from explain.units import DRILL, KINDS, MAX_UNITS, Units, drill, segment

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
        (
            "Yes, I can, and I will — salt and pepper it is: now.",
            "phrases",
            ["Yes, ", "I can, ", "and I will — ", "salt and pepper it is: ", "now."],
        ),
        ("It costs 1,000 at 3:15 because they can.", "phrases", ["It costs 1,000 at 3:15 ", "because they can."]),
        ("水，好。火；不", "phrases", ["水，", "好。", "火；", "不"]),
        (" I don't\tknow ", "words", [" I ", "don't\t", "know "]),
        ("水火 ok", "words", ["水", "火 ", "ok"]),
        ("か\u3099き葛\U000e0100𠮷x", "words", ["か\u3099", "き", "葛\U000e0100", "𠮷", "x"]),
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
        ("First one, then two", "phrases", 2),
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
        ("Some words. " * 300, "words", "The response has 600 words, more than 500; choose phrases."),
        (
            "w " * 501,
            "words",
            "The response has 501 words, more than 500; choose auto, which merges neighbours.",
        ),
        (" \n", "auto", "There is nothing to explain: the text is empty."),
        ("a", "tokens", "Unknown units 'tokens'; choose one of auto, steps, sentences, phrases, words."),
    ],
)
def test_refusals_say_what_to_choose(text: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        segment(text, kind)
    assert str(refusal.value) == message


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair))), max_size=3)


@given(awkward.filter(str.strip), spans, st.sampled_from(["auto", *KINDS]))
def test_frozen_spans_are_in_no_unit(text: str, frozen: list[tuple[int, int]], kind: str) -> None:
    frozen = [(start, end) for start, end in frozen if end <= len(text)]
    rest = "".join(char for at, char in enumerate(text) if not any(low <= at < high for low, high in frozen))
    if not rest.strip():
        with pytest.raises(ValueError, match="all of the text is frozen"):
            segment(text, kind, frozen=frozen)
        return
    units = segment(text, kind, frozen=frozen)
    assert units.render([True] * len(units)) == text
    held = {at for start, end in units.spans for at in range(start, end)}
    assert not held & {at for start, end in frozen for at in range(start, end)}
    assert all(text[at].isspace() for at in range(len(text)) if at not in held) or frozen
    assert list(units.spans) == sorted(units.spans)


def test_what_is_frozen_may_leave_more_pieces_than_are_merged_and_not_too_many() -> None:
    assert len(segment("ab, " * 40, frozen=[","])) == 41 - 1
    with pytest.raises(ValueError, match="cuts the text into 600 pieces, more than 500"):
        segment("ab, " * 600, frozen=[","])


def test_a_frozen_span_outside_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen span 2 to 9 is not within the text of 3 characters"):
        segment("a b", frozen=[(2, 9)])


def test_one_unit_is_cut_again_by_word_and_the_rest_stays() -> None:
    units = segment("One two. Three four five. Six.", "sentences")
    inner = drill(units, 1)
    assert [inner[unit] for unit in range(len(inner))] == ["Three ", "four ", "five. "]
    assert inner.render([False] * 3) == "One two. Six." and inner.render([True] * 3) == units.text
    assert drill(units, 2) is None
    assert len(drill(Units("w " * 40, ((0, 80),)), 0)) == DRILL


@given(awkward, awkward, st.integers(1, 12))
def test_the_differences_turn_one_text_into_the_other(one: str, other: str, most: int) -> None:
    if not one.strip() or not other.strip():
        return
    left, right = diff_units(one, other, most)
    assert len(left) == len(right) <= most and diff_units(other, one, most) == (right, left)
    off = [False] * len(left)
    assert swap(left, off) == other and swap(right, off) == one
    assert swap(left, [True] * len(left)) == one
    assert (len(left) == 0) == (one == other)


def test_the_differences_by_hand() -> None:
    left, right = diff_units("The red cat sat here.", "A red dog sat right here.")
    assert [left[unit] for unit in range(3)] == ["The ", "cat ", ""] and left.swaps == ("A ", "dog ", "right ")
    assert [right[unit] for unit in range(3)] == ["A ", "dog ", "right "]


def test_all_masks_are_all_different_and_start_with_everything() -> None:
    masks = all_masks(5)
    assert masks[0].all() and not masks[-1].any()
    assert len(np.unique(masks, axis=0)) == 32

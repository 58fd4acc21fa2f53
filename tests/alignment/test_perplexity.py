"""Perplexity: windows by hand and by property, figures by closed form, and the guide of transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.engine import Engine
from alignment.perplexity import Document, document, figures, windows


def test_disjoint_windows_by_hand() -> None:
    # lm-evaluation-harness, windows of 4: [9 0 1 2 -> 0 1 2 3], [3 4 5 6 -> 4 5 6 7], and the last one, of two tokens,
    # extended to the left: [5 6 7 8 -> 8 9]
    assert windows(range(10), 4, prefix=99) == [([99, 0, 1, 2, 3], 1), ([3, 4, 5, 6, 7], 1), ([5, 6, 7, 8, 9], 3)]


def test_overlapping_windows_by_hand() -> None:
    assert windows(range(7), 4, 2) == [([0, 1, 2, 3, 4], 1), ([2, 3, 4, 5, 6], 3)]


@pytest.mark.parametrize(("ids", "prefix", "count"), [([], None, 0), ([], 9, 0), ([5], None, 0), ([5], 9, 1)])
def test_texts_of_no_and_one_token(ids: list[int], prefix: int | None, count: int) -> None:
    assert len(windows(ids, 8, prefix=prefix)) == count


@given(st.integers(0, 60), st.integers(1, 20), st.data(), st.booleans())
def test_every_token_is_scored_once_with_all_the_context_there_is_room_for(
    n: int, length: int, data: st.DataObject, prefixed: bool
) -> None:
    stride = data.draw(st.integers(1, length))
    found = windows(range(n), length, stride, -1 if prefixed else None)
    text = [*([-1] if prefixed else []), *range(n)]
    assert [token for window in found for token in window.ids[window.start :]] == text[1:]
    for i, window in enumerate(found):
        assert len(window.ids) - 1 <= length
        at = text.index(window.ids[0])
        assert window.ids == text[at : at + len(window.ids)]
        assert window.start >= 1
        if i:
            assert len(window.ids) == length + 1
            assert len(window.ids) - window.start <= stride


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_that_leaves_tokens_out_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="take one from 1 to 8"):
        windows(range(5), 8, stride)


def test_figures_by_hand() -> None:
    # losses ln 2 a token on 3 tokens and ln 4 on 1: in all 5 ln 2 on 4 tokens
    found = figures([Document(-3 * math.log(2), 3, 2, 8), Document(-2 * math.log(2), 1, 3, 2)])
    assert found["token_perplexity"]["value"] == pytest.approx(2 ** (5 / 4))
    assert found["word_perplexity"]["value"] == pytest.approx(2)
    assert found["byte_perplexity"]["value"] == pytest.approx(2**0.5)
    assert found["bits_per_byte"]["value"] == pytest.approx(0.5)
    assert found["mean_document_perplexity"]["value"] == pytest.approx((2 + 4) / 2)
    assert (found["tokens"], found["documents"]) == (4, 2)


def test_words_and_bytes_are_counted_as_the_harness_does() -> None:
    assert document(" naïve  café\n", -1.0, 5)[1:] == (5, 4, 15)


def test_what_overflows_is_infinite_and_its_loss_is_not() -> None:
    found = figures([Document(-2000.0, 2, 1, 1)])
    assert found["token_perplexity"]["value"] == math.inf
    assert found["loss"]["value"] == 1000.0


def test_an_empty_text_is_left_out_and_nothing_but_those_refused() -> None:
    assert figures([Document(0.0, 0, 1, 0), Document(-1.0, 1, 1, 1)])["documents"] == 1
    with pytest.raises(ValueError, match="no text"):
        figures([Document(0.0, 0, 1, 0)])


@pytest.mark.parametrize(("length", "stride", "tokens"), [(16, 8, 64), (17, 1, 40), (64, 64, 64)])
def test_strided_windows_give_the_perplexity_of_hugging_face(
    tiny_model: Path, length: int, stride: int, tokens: int
) -> None:
    """The loop of transformers' guide on perplexity, on texts whose last window is a whole one, with the sum over
    tokens that the guide approximates. Its windows hold the last token that is scored, which is not read."""
    ids = [3 + 7 * i % 200 for i in range(tokens)]
    with Engine.open(tiny_model, "float32") as engine:
        found = windows(ids, length - 1, min(stride, length - 1))
        scored = engine.likelihoods([w.ids for w in found], [w.start for w in found], "base")
        model = engine.backbone.causal_lm
        total, done = 0.0, 0
        for begin in range(0, tokens, stride):
            end = min(begin + length, tokens)
            inputs = torch.tensor([ids[begin:end]])
            labels = inputs.clone()
            labels[:, : -(end - done)] = -100
            with torch.no_grad():
                loss = model(inputs, labels=labels).loss
            total += loss.item() * int((labels[:, 1:] != -100).sum())
            done = end
            if end == tokens:
                break
    assert -sum(one.total for one in scored) == pytest.approx(total, rel=1e-5)

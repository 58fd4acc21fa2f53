"""Likelihoods of continuations: those of each row alone, whatever it shares with others and wherever chunks end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment import likelihood, prefix_tree
from alignment.backbone import Backbone
from alignment.config import BackboneConfig
from alignment.engine import Engine
from alignment.flight import Usage
from alignment.likelihood import Likelihood, likelihoods

ROWS = st.lists(
    st.lists(st.integers(1, 3), min_size=2, max_size=9).flatmap(
        lambda row: st.tuples(st.just(row), st.integers(1, len(row)))
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return Backbone(BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32"))


def alone(backbone: Backbone, row: list[int], start: int) -> Likelihood:
    """transformers' own forward."""
    with torch.no_grad():
        logp = backbone.causal_lm(torch.tensor([row])).logits[0].float().log_softmax(-1)
    values = [logp[i - 1, row[i]].item() for i in range(start, len(row))]
    return Likelihood(values, all(int(logp[i - 1].argmax()) == row[i] for i in range(start, len(row))))


@settings(max_examples=25, deadline=None)
@given(ROWS, st.integers(1, 20))
def test_rows_together_are_rows_alone(backbone: Backbone, rows: list[tuple[list[int], int]], room: int) -> None:
    ids, starts = [row for row, _ in rows], [start for _, start in rows]
    usage = Usage()
    with pytest.MonkeyPatch.context() as patch, backbone.role("base"):
        patch.setattr(prefix_tree, "ROOM", room)
        together = likelihoods(backbone, ids, starts, usage)
    assert usage.scored == len({tuple(row[: i + 1]) for row in ids for i in range(len(row))})
    for found, row, start in zip(together, ids, starts, strict=True):
        wanted = alone(backbone, row, start)
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-5)
        assert found.greedy == wanted.greedy


def test_a_model_whose_attention_takes_no_tree_is_read_padded(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[5, 6, 7, 8, 9], [5, 6], [5, 6, 7, 3], [9, 8, 7]]
    with backbone.role("base"):
        tree = likelihoods(backbone, rows, [1, 1, 3, 2], Usage())
        monkeypatch.setattr(likelihood, "knows", lambda backbone: False)
        padded = likelihoods(backbone, rows, [1, 1, 3, 2], Usage())
    for one, other in zip(tree, padded, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.greedy == other.greedy


def test_the_first_token_has_none(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="put a token before it"):
        likelihoods(backbone, [[1, 2]], [0], Usage())


def test_a_greedy_text_is_greedy(tiny_model: Path) -> None:
    from alignment.engine import Request

    with Engine.open(tiny_model, "float32") as engine:
        prompt = [{"role": "user", "content": "Make 24."}]
        done = engine.generate([Request(prompt, role="base", temperature=0, max_tokens=6)])[0]
        before = engine.backbone.chat.prompt_ids(prompt)
        other = [*done.ids[:-1], (done.ids[-1] + 1) % 200]
        found = engine.likelihoods([[*before, *done.ids], [*before, *other]], [len(before)] * 2, "base")
    assert [one.greedy for one in found] == [True, False]
    assert found[0].total == pytest.approx(done.logprob, abs=1e-4)

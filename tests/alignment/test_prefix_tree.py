"""Rows that share prefixes: every token sees its own row's beginning and nothing else, and is computed once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
)

from alignment import prefix_tree, text_scores
from alignment.backbone import Backbone
from alignment.batch import pad
from alignment.config import BackboneConfig
from alignment.flight import Usage
from alignment.prefix_tree import chunks

ROWS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9).map(tuple), min_size=1, max_size=20, unique=True)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 12))
def test_a_token_sees_its_row_up_to_itself(rows: list[tuple[int, ...]], room: int) -> None:
    cache: list[int] = []
    ended: list[int] = []
    computed = 0
    for chunk in chunks(rows, room):
        assert 0 < len(chunk.ids) <= room
        cache = [cache[place] for place in chunk.keep] + chunk.ids
        seen = [[cache[place] for place in line.nonzero()[0]] for line in chunk.seen]
        assert all(len(tokens) == position + 1 for tokens, position in zip(seen, chunk.positions, strict=True))
        for number, place in chunk.ends:
            assert tuple(seen[place]) == rows[number]
            ended.append(number)
        computed += len(chunk.ids)
    assert sorted(ended) == list(range(len(rows)))
    assert computed == len({row[: i + 1] for row in rows for i in range(len(row))})


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    found = Backbone(BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32"))
    found.add_role("reward", seed=0)
    _stir(found)
    return found


def _stir(backbone: Backbone) -> None:
    """An adapter that does something."""
    generator = torch.Generator().manual_seed(0)
    weights = backbone.weights("reward")
    backbone.set_weights("reward", {n: torch.randn(w.shape, generator=generator) * 0.1 for n, w in weights.items()})


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_scores_are_those_of_rows_alone(backbone: Backbone, data: st.DataObject) -> None:
    rows = [list(row) for row in data.draw(ROWS)]
    alone = []
    with backbone.role("reward"), torch.no_grad():
        for row in rows:
            ids = torch.tensor([row])
            hidden = backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state[0, -1]
            alone.append(backbone.scalar("reward", hidden).item())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "ROOM", data.draw(st.sampled_from([1, 4, 512])))
        found = text_scores.scores(backbone, rows + rows[:1], "reward", Usage())
        assert found == pytest.approx([*alone, alone[0]], abs=1e-5)
        patch.setattr(text_scores, "knows", lambda _: False)  # a model whose attention is not known
        assert text_scores.scores(backbone, rows, "reward", Usage()) == pytest.approx(alone, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=8), min_size=1))
def test_trees_have_the_states_and_gradients_of_padded_texts(backbone: Backbone, groups: list[list[list[int]]]) -> None:
    texts = [text for group in groups for text in group]
    ids, mask = pad(texts, 0)

    def padded() -> torch.Tensor:
        return backbone.hidden(ids, mask).last_hidden_state[torch.arange(len(texts)), mask.sum(-1) - 1]

    found = []
    with backbone.role("reward", train=True):
        parameters = backbone.parameters("reward")
        for states in (padded(), prefix_tree.ends_of(backbone, groups)):
            loss = (backbone.scalar("reward", states) * torch.linspace(-1, 1, len(texts))).mean()
            found.append([states.detach(), *torch.autograd.grad(loss, parameters)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@given(st.lists(ROWS.map(lambda rows: rows + rows[:1]), min_size=1))
def test_the_size_of_a_tree(groups: list[list[tuple[int, ...]]]) -> None:
    for rows in groups:
        assert prefix_tree.size(rows) == len({row[: i + 1] for row in rows for i in range(len(row))})


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (LlamaConfig(), True),
        (MistralConfig(sliding_window=None), True),
        (MistralConfig(sliding_window=4), False),
        (FalconConfig(), True),
        (FalconConfig(alibi=True), False),
        (BloomConfig(), False),
        (GPTNeoConfig(), False),
    ],
)
def test_places_that_the_mask_decides_are_left_to_padded_rows(config: PretrainedConfig, known: bool) -> None:
    config._attn_implementation = "eager"
    model = SimpleNamespace(get_decoder=lambda: SimpleNamespace(config=config))
    assert prefix_tree.knows(SimpleNamespace(causal_lm=model)) == known


def test_sinks_are_left_to_padded_rows() -> None:
    config = GptOssConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_local_experts=1, layer_types=["full_attention"]
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert not prefix_tree.knows(SimpleNamespace(causal_lm=model))

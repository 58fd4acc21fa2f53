"""The lean forward against transformers' own, and rows that join and leave while others are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.engine import Engine, Request
from alignment.flight import PrefixStore, overlap
from alignment.lean import LeanDecoder, Span, knows

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
TEXTS = [[5, 9, 11, 2, 40], [5, 9], [5, 9, 11, 2, 7, 8, 1, 30, 31, 32, 33]]


def backbone_of(config: Any, **settings: Any) -> Backbone:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    plain = BackboneConfig(model="x", quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    backbone = Backbone.around(plain, model)
    backbone.add_role("sft", seed=0)
    for parameter in backbone.parameters("sft"):
        torch.nn.init.normal_(parameter, std=0.1)
    return backbone


@pytest.mark.parametrize("config", [LlamaConfig(**SHAPE), Qwen2Config(**SHAPE)], ids=["llama", "qwen2"])
@pytest.mark.parametrize("role", ["base", "sft"])
@pytest.mark.parametrize("merged", [False, True])
def test_hidden_states_are_those_of_transformers(config: Any, role: str, merged: bool) -> None:
    """Prompts of several lengths at once, then a token of each, some of each, and several tokens of one."""
    backbone = backbone_of(config)
    decoder = LeanDecoder(backbone, role, merged)
    slots = decoder.slots()

    def theirs(ids: list[int]) -> torch.Tensor:
        tokens = torch.tensor([ids])
        with backbone.role(role):
            return backbone.hidden(tokens, torch.ones_like(tokens)).last_hidden_state[0]

    with torch.no_grad():
        flat = torch.tensor([token for text in TEXTS for token in text])
        found = decoder(flat, [Span(i, 0, len(text)) for i, text in enumerate(TEXTS)], slots)
        for part, text in zip(found.split([len(text) for text in TEXTS]), TEXTS, strict=True):
            torch.testing.assert_close(part, theirs(text), atol=2e-5, rtol=1e-4)
        found = decoder(torch.tensor([3, 4, 6]), [Span(i, len(text), 1) for i, text in enumerate(TEXTS)], slots)
        for state, text, token in zip(found, TEXTS, [3, 4, 6], strict=True):
            torch.testing.assert_close(state, theirs([*text, token])[-1], atol=2e-5, rtol=1e-4)
        grown = [[*text, token] for text, token in zip(TEXTS, [3, 4, 6], strict=True)]
        more = [[60, 61, 62], [63], [64, 65]]
        spans = [Span(i, len(text), len(new)) for i, (text, new) in enumerate(zip(grown, more, strict=True))]
        found = decoder(torch.tensor(sum(more, [])), spans, slots)
        for part, text, new in zip(found.split([3, 1, 2]), grown, more, strict=True):
            torch.testing.assert_close(part, theirs([*text, *new])[-len(new) :], atol=2e-5, rtol=1e-4)
        slots.fit(6, 16)
        slots.copy(2, 5, 4)  # a row that begins as the third one
        found = decoder(torch.tensor([50, 51]), [Span(5, 4, 2)], slots)
        torch.testing.assert_close(found, theirs([*TEXTS[2][:4], 50, 51])[-2:], atol=2e-5, rtol=1e-4)


def test_other_architectures_are_left_to_transformers() -> None:
    assert knows(backbone_of(LlamaConfig(**SHAPE)), "sft", copies=True)
    assert not knows(backbone_of(MistralConfig(**SHAPE)), "sft", copies=True)
    scaled = LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    assert not knows(backbone_of(scaled), "sft", copies=True)
    assert not knows(backbone_of(LlamaConfig(**SHAPE | {"hidden_act": "gelu"})), "sft", copies=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_overlap_is_the_common_prefix(a: list[int], b: list[int]) -> None:
    length = overlap(a, b)
    assert a[:length] == b[:length] and (length in (len(a), len(b)) or a[length] != b[length])


def test_the_store_forgets_what_was_used_least_recently() -> None:
    states = torch.zeros(1, 16, 2, 1, 4)  # 512 bytes
    store = PrefixStore(limit=1024)
    first, second, third = ([i] * 16 for i in (1, 2, 3))
    store.keep(first, states)
    store.keep(second, states)
    assert store.best([*first, 9])[0] == 16
    store.keep(third, states)
    assert [ids for ids, _ in store.entries] == [first, third]
    assert store.best(second) == (0, None) and store.best(third[:3]) == (0, None)
    store.keep([*third, 5], states)  # what it begins with is in it
    assert [ids for ids, _ in store.entries] == [first, [*third, 5]]


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    config = BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32")
    with Engine(Backbone(config)) as engine:
        yield engine


def ask(text: str, tokens: int = 12, **settings: Any) -> Request:
    return Request([{"role": "user", "content": text}], role="base", max_tokens=tokens, **settings)


def long(text: str) -> Request:
    return ask(text, tokens=20_000, grammar="[0-9]{20000}")


def test_a_short_row_does_not_wait_for_a_long_one(engine: Engine) -> None:
    alone = engine.generate([ask("1 2", seed=3)])[0]
    pieces = engine.stream(long("4 7 8 8"))
    next(pieces)
    assert engine.generate([ask("1 2", seed=3)])[0].ids == alone.ids
    assert engine.logprobs([[{"role": "user", "content": "1"}]], [[5]], "base")
    written = engine.usage.written
    # some pieces have waited here meanwhile; those of tokens that are written from now on come too
    assert any(engine.usage.written > written for _ in pieces)
    pieces.close()


def test_closing_streams_cancels_every_row(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.admission.MAX_ROWS", 2)
    requests = [long(f"{i} 7 8 8") for i in range(4)]
    lengths = [len(engine.backbone.chat.prompt_ids(request.prompt)) for request in requests]
    pieces = engine.streams(requests)
    next(pieces)
    pieces.close()
    short = engine.generate([ask("1 2")])[0]
    # two had begun; the others never did
    assert engine.usage.read + engine.usage.spared == sum(lengths[:2]) + short.prompt_tokens
    written = engine.usage.written
    again = engine.generate([ask("1 2")])[0]
    assert engine.usage.written - written == again.tokens - 1  # nobody else's


def test_what_is_in_the_store_is_not_read_again_and_changes_nothing(engine: Engine) -> None:
    text = "the quick brown fox makes 24 of 4 7 8 8 " * 3
    first = engine.generate([ask(text, seed=1)])[0]
    read = engine.usage.read
    again = engine.generate([ask(text, seed=1)])[0]
    assert again.ids == first.ids and engine.usage.read - read == 1  # the last token, for its hidden state
    with engine.for_training():
        read = engine.usage.read
        assert engine.generate([ask(text, seed=1)])[0].ids == first.ids
        assert engine.usage.read - read == first.prompt_tokens
    engine.forget_texts()
    read = engine.usage.read
    assert engine.generate([ask(text, seed=1)])[0].ids == first.ids
    assert engine.usage.read - read == first.prompt_tokens
    engine.forget_texts()
    read = engine.usage.read
    engine.generate([ask(text, seed=i) for i in range(16)])
    assert engine.usage.read - read == first.prompt_tokens  # once for all


def test_every_prompt_token_is_read_or_spared(engine: Engine) -> None:
    shared = "the quick brown fox makes 24 of "
    requests = [ask(shared + text, seed=i) for i, text in enumerate(("4 7 8 8", "4 7 8 9", "4 7 8 8", "1 2", "4 7"))]
    for _ in range(2):  # the second time from the store
        read, spared = engine.usage.read, engine.usage.spared
        asked = sum(done.prompt_tokens for done in engine.generate(requests))
        assert engine.usage.read - read + engine.usage.spared - spared == asked
    assert engine.usage.read - read == 4  # the last token of each prompt


def test_changed_weights_are_not_answered_from_the_store(engine: Engine) -> None:
    backbone = engine.backbone
    backbone.add_role("sft", seed=0)
    request = Request([{"role": "user", "content": "4 7 8 8"}], role="sft", max_tokens=12, temperature=0)
    before = engine.generate([request])[0]
    with backbone.role("sft", train=True):
        for parameter in backbone.parameters("sft"):
            torch.nn.init.normal_(parameter, std=0.3)
    after = engine.generate([request])[0]
    assert after.ids != before.ids
    logp = engine.logprobs([request.prompt], [after.ids], "sft")[0]
    assert after.logprob == pytest.approx(sum(logp), abs=1e-3)


def test_more_rows_than_fit_are_written_one_after_the_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [ask(f"{i} 7 8 8", seed=i) for i in range(7)]
    want = [done.ids for done in engine.generate(requests)]
    monkeypatch.setattr("alignment.admission.MAX_ROWS", 2)
    assert [done.ids for done in engine.generate(requests)] == want
    monkeypatch.setattr("alignment.admission.SLOT_BYTES", 1)
    assert [done.ids for done in engine.generate(requests)] == want


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("training", [False, True])
def test_quantized_weights_are_unpacked_and_mean_the_same(tiny_model: Path, quantization: Any, training: bool) -> None:
    """The log-probabilities of what was written are those of the forward that trains."""
    config = BackboneConfig(model=str(tiny_model), quantization=quantization, compute_dtype="float32")
    backbone = Backbone(config)
    backbone.add_role("sft", seed=0)
    for parameter in backbone.parameters("sft"):
        torch.nn.init.normal_(parameter, std=0.1)
    request = Request([{"role": "user", "content": "4 7 8 8"}], role="sft", max_tokens=12, seed=1)
    with Engine(backbone) as engine:
        with engine.for_training() if training else nullcontext():
            assert engine._admission.decoder("sft") is not None
            done = engine.generate([request])[0]
        again = engine.logprobs([request.prompt], [done.ids], "sft")[0]
    assert done.logprob == pytest.approx(sum(again), abs=1e-3)


def test_what_goes_wrong_while_a_copy_is_made_reaches_the_caller(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError("no room for a copy")

    monkeypatch.setattr("alignment.admission.LeanDecoder", full)
    with pytest.raises(MemoryError, match="no room"):
        engine.generate([ask("1 2")])
    monkeypatch.undo()
    assert engine.generate([ask("1 2")])[0].ids

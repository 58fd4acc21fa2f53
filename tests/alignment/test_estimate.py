"""The estimate's parts against what the real thing holds: bytes are counted, nothing is timed."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from alignment.backbone import Backbone
from alignment.batch import encode_rows, token_logprobs, width_of
from alignment.config import BackboneConfig, LoraSettings, PPOConfig, RewardConfig, SFTConfig, VirtualTokens
from alignment.decoding import Request, Row, decode_rows
from alignment.estimate import (
    largest,
    model_parameters,
    ppo_batches,
    ppo_memory,
    reward_batches,
    reward_memory,
    sft_batches,
    sft_memory,
    trained_parameters,
)
from alignment.footprint import Batch, evaluation_bytes, moment_bytes, sampling_bytes, step_bytes, weight_bytes
from alignment.gumbel import table
from alignment.packing import pack
from alignment.sft_trainer import rows_in_order
from alignment.shapes import Held, empty_backbone

METHODS = {"full": None, "lora": None, "prefix": VirtualTokens(kind="prefix", count=3)}


def config_of(path: Path, quantization: str = "none", dtype: str = "float32") -> BackboneConfig:
    return BackboneConfig(model=str(path), quantization=quantization, compute_dtype=dtype, lora=LoraSettings(rank=4))


def test_held_by_hand() -> None:
    x = torch.zeros(100)
    w = nn.Parameter(torch.zeros(100))
    with Held([x, w]) as held:
        view = x.view(10, 10)
        assert held.now == 0  # a view of what was there already
        y = view + 1
        assert held.now == held.peak == 400
        del view, y
        assert (held.now, held.peak) == (0, 400)
        loss = (w.exp() * 2).sum()  # exp keeps its result, the product is gone
        assert (held.now, held.peak) == (404, 804)
        loss.backward()
        del loss
        assert held.now == 400  # the gradient


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_weights_are_as_large_as_the_real_ones(tiny_model: Path, quantization: str) -> None:
    config = config_of(tiny_model, quantization)
    real = Backbone(config).causal_lm
    total = sum(p.numel() * p.element_size() for p in real.parameters())
    for module in real.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            total += state.absmax.nbytes + state.state2.absmax.nbytes
        elif isinstance(module, bnb.nn.Linear8bitLt):
            total += module.weight.SCB.nbytes
    assert weight_bytes(empty_backbone(config, False, "cpu")) == total
    dense = Backbone(config_of(tiny_model))
    assert model_parameters(config) == sum(p.numel() for p in dense.causal_lm.parameters())
    dense.add_role("sft", seed=0)
    trained = sum(p.numel() for p in dense.parameters("sft"))
    assert trained_parameters(config, SFTConfig(method="lora")) == trained


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_moments_are_as_large_as_the_real_ones(optimizer: str) -> None:
    # settings of parameters that other tests had, kept by id, which a new parameter may get
    bnb.optim.GlobalOptimManager.get_instance().initialize()
    parameters = [nn.Parameter(torch.ones(shape)) for shape in ((64, 100), (16, 30), (4096,))]
    kind: Any = {"adamw": torch.optim.AdamW, "adamw_8bit": bnb.optim.AdamW8bit}[optimizer]
    real = kind(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    real.step()
    kept = [t for state in real.state.values() for n, t in state.items() if n.startswith(("exp_", "state", "absmax"))]
    assert moment_bytes(parameters, optimizer) == sum(t.numel() * t.element_size() for t in kept)


def held_by(backbone: Backbone, role: str, batch: Batch) -> dict[str, int]:
    """The same counts on a real backbone and a real loss."""
    ids = torch.zeros((batch.rows, batch.tokens), dtype=torch.long)
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    wanted[:, -batch.losses // batch.rows :] = True
    already = [*backbone.model.parameters(), *backbone.model.buffers(), ids, wanted]
    for module in backbone.model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        already += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code] if state else []
    with backbone.role(role, train=True), Held(already) as held:
        with backbone.compute():
            loss = -token_logprobs(backbone, ids, torch.ones_like(ids), wanted).sum()
        kept = held.now
        loss.backward()
        for parameter in backbone.parameters(role):
            parameter.grad = None
    return {"kept": kept, "peak": held.peak}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "quantization"),
    [("full", "none"), ("lora", "none"), ("lora", "int8"), ("lora", "nf4"), ("prefix", "none"), ("prefix", "int8")],
)
def test_a_step_on_shapes_holds_what_a_real_one_holds(
    tiny_model: Path, method: str, quantization: str, dtype: str
) -> None:
    config = config_of(tiny_model, quantization, dtype)
    batch = Batch(rows=3, tokens=40, losses=60)
    role = "base" if method == "full" else "sft"
    backbones = Backbone(config, method == "full"), empty_backbone(config, method == "full", "cpu")
    for backbone in backbones:
        if role == "sft":
            with torch.device("meta" if backbone is backbones[1] else "cpu"):
                backbone.add_role("sft", seed=0, tokens=METHODS[method])
    held_by(backbones[0], role, batch)  # at its first forward an 8-bit layer moves its scales
    real = held_by(backbones[0], role, batch)
    got = step_bytes(backbones[1], role, batch, "cpu", checkpointing=False)
    assert got["activations"] + got["logits"] == pytest.approx(real["kept"], rel=0.02)
    assert got["peak"] == pytest.approx(real["peak"], rel=0.05)


def test_what_changes_the_need_for_memory(tiny_model: Path) -> None:
    config = config_of(tiny_model)
    backbone = empty_backbone(config, False, "cpu")
    with torch.device("meta"):
        backbone.add_role("sft", seed=0)
    plain = step_bytes(backbone, "sft", Batch(4, 60, 100), "cpu", checkpointing=False)
    again = step_bytes(backbone, "sft", Batch(4, 60, 100), "cpu", checkpointing=True)
    packed = step_bytes(backbone, "sft", Batch(1, 240, 100, packed=True), "cpu", checkpointing=False)
    assert again["activations"] < 0.4 * plain["activations"] and again["peak"] < plain["peak"]
    assert packed["activations"] > plain["activations"]  # the attention of one long row
    assert evaluation_bytes(backbone, "sft", Batch(4, 60, 100), "cpu") < plain["activations"]
    assert not backbone.causal_lm.is_activation_checkpointing


def test_the_total_is_what_stands_at_once(tiny_model: Path) -> None:
    batches = [Batch(4, 60, 100), Batch(2, 30, 20)]
    memory = sft_memory(config_of(tiny_model), SFTConfig(method="full"), batches, [Batch(4, 20, 30)])
    size = model_parameters(config_of(tiny_model))
    assert (memory.weights, memory.gradients, memory.moments, memory.adapters) == (4 * size, 4 * size, 8 * size, 0)
    assert memory.weights + memory.moments + memory.activations < memory.total
    parts = memory.parts()
    assert parts.pop("total") <= sum(parts.values())
    eight = sft_memory(
        config_of(tiny_model), SFTConfig(method="full", optimizer="adamw_8bit"), batches, [Batch(4, 20, 30)]
    )
    assert memory.total - eight.total == memory.moments - eight.moments > 0
    reward = reward_memory(config_of(tiny_model), RewardConfig(), [Batch(8, 60, 0)], [])
    assert reward.logits < 4 * 8 * 60 and reward.adapters > 2 * reward.gradients - 4 * 65 * 2
    assert largest([Batch(2, 9, 1), Batch(3, 9, 1), Batch(1, 9, 5)]) == [Batch(3, 9, 1), Batch(1, 9, 5)]


@pytest.mark.parametrize("packing", [False, True])
def test_batches_are_those_of_the_training(tiny_model: Path, packing: bool) -> None:
    chat = Backbone(config_of(tiny_model)).chat
    texts = ["4 7 8 8", "the quick brown fox", "12", "Make 24.", "LEAVE: 2 9 cannot make 24"]
    rows = [{"prompt": [{"role": "user", "content": a}], "completion": b} for a in texts for b in texts]
    config = SFTConfig(steps=9, batch_size=6, gradient_accumulation=2, packing=packing, max_length=120)
    encoded = encode_rows(chat, rows, config.max_length)
    lengths = [len(row["input_ids"]) for row in encoded]
    losses = [sum(label != -100 for label in row["labels"]) for row in encoded]
    found = sft_batches(lengths, losses, config, seed=3)
    ordered = list(rows_in_order(encoded, config, seed=3))
    assert len(found) == 18
    for number, batch in enumerate(found):
        part = ordered[3 * number : 3 * number + 3]
        ids, labels = [row["input_ids"] for row in part], [row["labels"] for row in part]
        if packing:
            packed = pack(ids, labels, config.max_length, 0)
            shape, count = packed["input_ids"].shape, int((packed["labels"] != -100).sum())
        else:
            shape = (3, width_of(max(map(len, ids))))
            count = sum(label != -100 for row in labels for label in row)
        assert batch == Batch(*shape, count, packed=packing)


def test_reward_batches_by_hand() -> None:
    config = RewardConfig(steps=2, batch_size=2)
    assert reward_batches([55, 50], config, seed=0) == [Batch(2, 56, 0)] * 2
    assert reward_batches([9, 9, 9], config, seed=0) == [Batch(2, 16, 0)] * 2


def test_sampling_holds_what_the_real_one_holds(tiny_model: Path) -> None:
    backbone = Backbone(config_of(tiny_model))
    ids = backbone.chat.prompt_ids([{"role": "user", "content": "the quick brown fox"}])
    length = 30
    rows = [Row(Request([], max_tokens=length), ids, stream=Random(i)) for i in range(6)]
    noise = table(backbone.causal_lm.config.vocab_size, backbone.device)  # of a process, whatever it samples
    with backbone.role("base"), Held([*backbone.model.parameters(), *backbone.model.buffers(), noise]) as held:
        decode_rows(backbone, rows)
    assert sum(row.finish == "length" for row in rows) >= 5
    kept, peak = sampling_bytes(
        empty_backbone(config_of(tiny_model), False, "cpu"), "base", 6, len(ids) + length, "cpu"
    )
    text = backbone.causal_lm.config
    assert kept == 6 * (len(ids) + length - 1) * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 8
    assert peak == pytest.approx(held.peak, rel=0.1)


def test_batches_of_an_iteration_by_hand() -> None:
    config = PPOConfig(batch_size=10, minibatches=3, max_tokens=5)
    steps, forwards = ppo_batches(config, prompt=7, learned=True)
    assert steps == {"policy": [Batch(4, 16, 20, entropy="value")], "value": [Batch(4, 16, 20)]}
    assert forwards == [
        ("policy", Batch(10, 16, 50, entropy="value")),
        ("sft", Batch(10, 16, 50, entropy="value")),
        ("value", Batch(10, 16, 50)),
        ("reward", Batch(10, 16, 0)),
    ]
    config = PPOConfig(
        algorithm="reinforce", batch_size=10, micro_batch_size=2, max_tokens=5, ptx_coef=1, ptx_corpus="a", ptx_length=8
    )
    steps, forwards = ppo_batches(config, prompt=7, learned=False)
    assert steps == {"policy": [Batch(2, 16, 10, entropy="value"), Batch(4, 8, 28)]}
    assert [role for role, _ in forwards] == ["policy", "sft"]


def test_what_changes_the_memory_of_ppo(tiny_model: Path) -> None:
    def need(learned: bool = True, **changes: Any) -> Any:
        config = PPOConfig(**({"batch_size": 8, "max_tokens": 20} | changes))
        return ppo_memory(config_of(tiny_model), config, [30, 50], learned)

    plain = need()
    learned = plain.adapters - need(learned=False).adapters  # bytes of one adapter with its head: the reward model's
    head = 4 * (64 + 1)  # weights and a bias
    assert plain.moments == 2 * ((learned - head) + learned)  # two of each of policy and value
    assert plain.gradients in (learned - head, learned)  # of the larger step
    assert plain.total > need(micro_batch_size=1).total and plain.total > need(gradient_checkpointing=True).total
    assert need(batch_size=16).kv_cache == 2 * plain.kv_cache

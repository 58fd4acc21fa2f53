"""The update of PPO on a tiny model in float32: invariants, gradients, resume, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings, PPOConfig
from alignment.engine import Engine
from alignment.errors import JuntoError
from alignment.losses import masked_mean, policy_loss, value_loss
from alignment.ppo import normalized, plain_windows, train_ppo
from alignment.rollout import Experience, assemble, measure, response_logprobs, response_values, sample
from alignment.run_dir import TIME_COLUMNS, RunDir

ROWS = [
    {"id": str(i), "question": q, "prompt": [{"role": "user", "content": q}]}
    for i, q in enumerate(("4 7 8 8", "the quick brown fox", "1 2 3", "Make 24. 5 6 6"))
]
TEXT = "the quick brown fox 10 - 4 = 6 (left: 5 6 6) Make 24. " * 20


def make(model: Path, quantization: str = "none") -> Backbone:
    backbone = Backbone(
        BackboneConfig(model=str(model), quantization=quantization, compute_dtype="float32", lora=LoraSettings(rank=4))
    )
    for i, role in enumerate(("sft", "reward")):
        backbone.add_role(role, seed=i)
        generator = torch.Generator().manual_seed(i)
        for parameter in backbone.parameters(role):
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return backbone


def scores(prompts: Any, texts: Any) -> list[float]:
    return [len(text) % 7 / 3 for text in texts]


def settings(**given: Any) -> PPOConfig:
    return PPOConfig(**({"iterations": 4, "batch_size": 8, "max_tokens": 7, "learning_rate": 1e-3} | given))


def rolled_out(backbone: Backbone, config: PPOConfig) -> Experience:
    backbone.add_role("policy", seed=0, copy_of="sft")
    backbone.add_role("value", seed=0, copy_of="reward")
    rows = ROWS * 2
    with Engine(backbone) as engine:
        completions = sample(engine, rows, config, [f"s/{i}" for i in range(len(rows))])
    rewards = scores(None, [c.text for c in completions])
    return assemble(measure(backbone, rows, completions, rewards, config), rewards, config, 0.05, backbone.chat.pad_id)


def train(model: Path, folder: Path, config: PPOConfig, stop_after: int | None = None, **more: Any) -> RunDir:
    class Stop(BaseException):
        pass

    def report(event: dict) -> None:
        if stop_after is not None and event["step"] == stop_after + 1 and event["metrics"]:
            raise Stop  # in the middle of the next iteration, its checkpoint not yet written

    run = RunDir(folder)
    run.create("", {})
    with Engine(make(model)) as engine:
        try:
            train_ppo(engine, config, ROWS, lambda q, t: None, run, 0, report, score=scores, **more)
        except Stop:
            assert not (folder / "adapters" / "policy").exists()
    return run


def outcome(run: RunDir) -> Any:
    metrics = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in run.metrics()]
    adapters = {p.parent.name: json.loads(p.read_text())["sha256"] for p in run.path.glob("adapters/*/adapter.json")}
    return metrics, run.samples(), adapters


def test_before_the_first_step_nothing_has_moved(tiny_model: Path) -> None:
    """Ratio 1, KL 0, nothing clipped, and the whitened advantages leave no policy loss: over whole minibatches."""
    config = settings()
    backbone = make(tiny_model)
    exp = rolled_out(backbone, config)
    loss, tokens = 0.0, exp.response.sum()
    with backbone.role("policy", train=True):
        for rows in torch.arange(8).split(3):
            batch = exp.rows(rows)
            logp, _ = response_logprobs(backbone, batch.ids, batch.mask, batch.response, config.temperature)
            mask = batch.response.float()
            assert ((logp - batch.logp).exp() * mask - mask).abs().max() <= 1e-4
            part, stats = policy_loss(logp, batch.logp, batch.advantages, mask, config.clip_range, 0.0, tokens)
            assert stats["approxkl"] < 1e-9 and stats["clipfrac"] == 0
            loss += part.item()
    assert abs(loss) <= 1e-6
    assert masked_mean(exp.logp - exp.ref_logp, exp.response.float()).abs() < 1e-5  # the policy began as the reference


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("quantization", "tolerance"), [("none", 1e-5), ("nf4", 1e-4)])
def test_gradients_on_the_shared_backbone_are_those_of_two_models(
    tiny_model: Path, quantization: str, tolerance: float, checkpointing: bool
) -> None:
    """Policy and value in turn on one backbone, roles switched between, against a model for each."""
    config = settings()
    shared = make(tiny_model, quantization)
    exp = rolled_out(shared, config)

    def policy_gradient(backbone: Backbone) -> list[torch.Tensor]:
        with backbone.role("policy", train=True, checkpointing=checkpointing and backbone is shared):
            logp, _ = response_logprobs(backbone, exp.ids, exp.mask, exp.response, 1.0)
            policy_loss(logp, exp.logp, exp.advantages, exp.response.float(), 0.2)[0].backward()
            return [p.grad.clone() for p in backbone.parameters("policy") if p.grad is not None]

    def value_gradient(backbone: Backbone) -> list[torch.Tensor]:
        with backbone.role("value", train=True, checkpointing=checkpointing and backbone is shared):
            values = response_values(backbone, exp.ids, exp.mask, exp.response)
            value_loss(values, exp.values, exp.returns, exp.response.float(), 0.2).backward()
            return [p.grad.clone() for p in backbone.parameters("value") if p.grad is not None]

    own_policy, own_value = make(tiny_model, quantization), make(tiny_model, quantization)
    own_policy.add_role("policy", seed=0, copy_of="sft")
    own_value.add_role("value", seed=0, copy_of="reward")
    value_first = value_gradient(shared)
    pairs = [(policy_gradient(shared), policy_gradient(own_policy)), (value_first, value_gradient(own_value))]
    for ours, theirs in pairs:
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).norm() <= tolerance * b.norm().clamp(min=1e-8)


VARIANTS: list[dict[str, Any]] = [
    {"kl_target": 2.0, "kl_horizon": 20, "normalize_scores": True, "whiten_rewards": True},
    {"algorithm": "rloo", "samples_per_prompt": 4, "kl_penalty": "loss"},
    {"surrogate": "kl_old", "entropy_coef": 0.01, "micro_batch_size": 3, "gradient_checkpointing": True},
    {"ptx_coef": 0.5, "ptx_corpus": "plain.txt", "ptx_length": 16},
]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_stopped_and_resumed_it_ends_the_same(tiny_model: Path, tmp_path: Path, variant: int) -> None:
    """Bitwise: weights, samples and metrics, the KL coefficients and the moments of the scores among them."""
    config = settings(**VARIANTS[variant])
    corpus = TEXT if config.ptx_coef else ""
    straight = train(tiny_model, tmp_path / "straight", config, corpus=corpus)
    train(tiny_model, tmp_path / "broken", config, stop_after=2, corpus=corpus)
    resumed = train(tiny_model, tmp_path / "broken", config, corpus=corpus)
    assert outcome(resumed) == outcome(straight)
    if config.kl_target:
        coefficients = [row["objective/kl_coef"] for row in straight.metrics()]
        assert coefficients[0] == config.kl_coef and len(set(coefficients)) == len(coefficients)


def test_every_minibatch_is_a_step_and_an_open_end_costs(tiny_model: Path, tmp_path: Path) -> None:
    config = settings(iterations=1, epochs=3, minibatches=2, target_kl=None, missing_eos_penalty=2.0)
    plain = train(tiny_model, tmp_path / "plain", settings(iterations=1, missing_eos_penalty=0.0)).metrics()[0]
    row = train(tiny_model, tmp_path / "costs", config).metrics()[0]
    assert row["updates"] == 6 and row["eos_rate"] < 1
    costs = plain["objective/scores"] - row["objective/scores"]
    assert costs == pytest.approx(2 * (1 - row["eos_rate"]), abs=1e-5)


def test_micro_batches_change_nothing_but_the_memory(tiny_model: Path, tmp_path: Path) -> None:
    whole = train(tiny_model, tmp_path / "whole", settings(iterations=1))
    parts = train(tiny_model, tmp_path / "parts", settings(iterations=1, micro_batch_size=1))
    for a, b in zip(whole.metrics(), parts.metrics(), strict=True):
        for name in set(a) - set(TIME_COLUMNS) - {"stage"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


def test_the_pretraining_loss_keeps_plain_text_likely(tiny_model: Path, tmp_path: Path) -> None:
    config = settings(iterations=6, ptx_coef=5.0, ptx_corpus="plain.txt", ptx_length=16, learning_rate=5e-3)
    run = train(tiny_model, tmp_path, config, corpus=TEXT)
    losses = [row["loss/ptx_avg"] for row in run.metrics()]
    assert losses[-1] < losses[0] - 0.2


def test_a_blown_ratio_and_a_loss_that_is_no_number_end_it(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(JuntoError, match="mean ratio .* above ppo.max_ratio"):
        train(tiny_model, tmp_path / "ratio", settings(learning_rate=0.5, max_ratio=1.01, target_kl=None, epochs=4))
    with pytest.raises(JuntoError, match="not a finite number"), Engine(make(tiny_model)) as engine:
        run = RunDir(tmp_path / "nan")
        run.create("", {})
        nan = float("nan")
        train_ppo(
            engine,
            settings(),
            ROWS,
            lambda q, t: None,
            run,
            0,
            lambda event: None,
            score=lambda prompts, texts: [nan] * len(texts),
        )


def test_running_moments_by_hand() -> None:
    moments, first = normalized([0, 0.0, 0.0], [1.0, 3.0])
    assert moments == [2, 2.0, 2.0] and first == pytest.approx([-(0.5**0.5), 0.5**0.5])
    moments, second = normalized(moments, [5.0, 7.0])  # of 1, 3, 5, 7: mean 4, variance 20/3
    assert second == pytest.approx([(5 - 4) / (20 / 3) ** 0.5, (7 - 4) / (20 / 3) ** 0.5])


def test_a_corpus_that_fills_no_window_is_refused(tiny_model: Path) -> None:
    backbone = make(tiny_model)
    assert all(len(window) == 16 for window in plain_windows(backbone, TEXT, 16))
    with pytest.raises(JuntoError, match="fewer than ppo.ptx_length"):
        plain_windows(backbone, "too short", 128)

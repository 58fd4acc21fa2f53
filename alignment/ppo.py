"""Proximal policy optimization on one backbone: policy and value are adapters, the reference is the SFT adapter."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.config import PPOConfig
from alignment.decoding import Completion
from alignment.engine import Engine
from alignment.failures import refuse_nan
from alignment.losses import explained_variance, masked_mean, policy_loss, value_loss
from alignment.rollout import Experience, experience, response_logprobs, response_values, sample
from alignment.run_dir import Report, RunDir, StageLog
from alignment.schedule import adamw, batch_indices, set_learning_rate
from alignment.scoring import Scorer

Row = dict[str, Any]
Check = Callable[[str, str], bool | None]
SAMPLES_PER_ITERATION = 4


def train_ppo(
    engine: Engine,
    config: PPOConfig,
    prompts: list[Row],
    check: Check,
    run: RunDir,
    seed: int,
    report: Report,
    score: Scorer | None = None,
) -> None:
    """Trains ``policy`` from ``sft``, and ``value`` from ``reward``, or goes on from the last iteration on disk.

    ``score`` gives the rewards; None: the engine's reward model. Where there is none, ``value`` is a new adapter.
    """
    backbone = engine.backbone
    score = score or engine.score
    backbone.add_role("policy", seed=seed, copy_of="sft")
    learned = "reward" in backbone.roles
    backbone.add_role("value", seed=seed, copy_of="reward" if learned else None)
    if not learned:  # a head that knows nothing should say nothing
        torch.nn.init.zeros_(backbone.heads["value"].weight)
    optimizers = {
        "policy": adamw(backbone.parameters("policy"), config.learning_rate),
        "value": adamw(backbone.parameters("value"), config.value_learning_rate),
    }
    folder = run.path / "checkpoints" / "ppo"
    start = 0
    if resume := checkpoint.latest(folder):
        tensors, state = checkpoint.load(resume, {f"adam-{role}": o for role, o in optimizers.items()})
        for role in optimizers:
            own = {k.removeprefix(f"{role}:"): v for k, v in tensors.items() if k.startswith(f"{role}:")}
            backbone.set_weights(role, own)
        start = state["step"]
    run.rewind("samples.jsonl", "ppo", start)
    log = StageLog(run, "ppo", config.iterations, start, report)
    metrics: dict[str, float] = {}
    for iteration in range(start, config.iterations):
        set_learning_rate(optimizers["policy"], config.learning_rate, iteration, config.iterations)
        set_learning_rate(optimizers["value"], config.value_learning_rate, iteration, config.iterations)
        rows = [prompts[i] for i in batch_indices(len(prompts), config.batch_size, iteration, f"{seed}/prompts")]
        # the random stream of a rollout is named by its number in the whole training
        seeds = [f"{seed}/ppo/{iteration * config.batch_size + i}" for i in range(config.batch_size)]
        completions = sample(engine, rows, config, seeds)
        scores = _scores(score, rows, completions, config)
        exp = experience(backbone, rows, completions, scores, config)
        metrics = _rollout_metrics(exp, completions, config) | _solved(rows, completions, check)
        metrics |= _update(backbone, optimizers, exp, config, f"{seed}/{iteration}", iteration + 1)
        log.step(iteration + 1, metrics, int(exp.mask.sum()))
        run.append("samples.jsonl", _samples(rows, completions, scores, check, iteration + 1))
        tensors = {f"{role}:{name}": w for role in optimizers for name, w in backbone.weights(role).items()}
        checkpoint.save(folder, iteration + 1, tensors, {f"adam-{role}": o for role, o in optimizers.items()}, {})
        log.saved(iteration + 1)
    if not metrics:  # killed after the last iteration, before the stage was closed
        metrics = [row for row in run.metrics() if row["stage"] == "ppo"][-1]
    results: dict[str, Any] = {"iterations": config.iterations} | {k: v for k, v in metrics.items() if "/" in k}
    for role in optimizers:
        results[f"{role}_sha256"] = backbone.save_role(role, run.path / "adapters" / role)
    log.done(results)
    shutil.rmtree(folder, ignore_errors=True)


def _scores(score: Scorer, rows: Sequence[Row], completions: Sequence[Completion], config: PPOConfig) -> list[float]:
    raw = score([row["prompt"] for row in rows], [c.text for c in completions])
    return [s - config.missing_eos_penalty * (c.finish != "eos") for s, c in zip(raw, completions, strict=True)]


def _update(
    backbone: Backbone,
    optimizers: dict[str, torch.optim.Optimizer],
    exp: Experience,
    config: PPOConfig,
    seed: str,
    iteration: int,
) -> dict[str, float]:
    """Epochs of minibatches. Forward and backward of one role before the other's: see ``alignment.backbone``."""
    rows = list(range(len(exp.ids)))
    shuffle = random.Random(seed)
    steps: list[dict[str, float]] = []
    for _ in range(config.epochs):
        shuffle.shuffle(rows)
        for part in range(config.minibatches):
            batch = exp.rows(torch.tensor(rows[part :: config.minibatches]))
            steps.append(
                _policy_step(backbone, optimizers["policy"], batch, config, iteration)
                | _value_step(backbone, optimizers["value"], batch, config, iteration)
            )
        if config.target_kl is not None and steps[-1]["policy/approxkl_avg"] > config.target_kl:
            break
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]} | {"updates": len(steps)}


def _policy_step(
    backbone: Backbone, optimizer: torch.optim.Optimizer, batch: Experience, config: PPOConfig, iteration: int
) -> dict[str, float]:
    with backbone.role("policy", train=True):
        logp, _ = response_logprobs(backbone, batch.ids, batch.mask, batch.response, config.temperature)
        loss, stats = policy_loss(logp, batch.logp, batch.advantages, batch.response.float(), config.clip_range)
        loss.backward()
        norm = clip_grad_norm_(backbone.parameters("policy"), config.max_grad_norm)
        refuse_nan("ppo", iteration, loss.item(), norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return {
        "loss/policy_avg": loss.item(),
        "val/ratio": stats["ratio"].item(),
        "policy/approxkl_avg": stats["approxkl"].item(),
        "policy/clipfrac_avg": stats["clipfrac"].item(),
        "policy/grad_norm": norm.item(),
    }


def _value_step(
    backbone: Backbone, optimizer: torch.optim.Optimizer, batch: Experience, config: PPOConfig, iteration: int
) -> dict[str, float]:
    with backbone.role("value", train=True):
        values = response_values(backbone, batch.ids, batch.mask, batch.response)
        loss = value_loss(values, batch.values, batch.returns, batch.response.float(), config.value_clip_range)
        (config.value_coef * loss).backward()
        norm = clip_grad_norm_(backbone.parameters("value"), config.max_grad_norm)
        refuse_nan("ppo", iteration, loss.item(), norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return {"loss/value_avg": loss.item()}


def _rollout_metrics(exp: Experience, completions: Sequence[Completion], config: PPOConfig) -> dict[str, float]:
    """Names as in OpenAI's lm-human-preferences and TRL. ``objective/kl`` is nats per sequence."""
    kl = ((exp.logp - exp.ref_logp) * exp.response).sum(-1)
    scores = exp.scores.mean().item()
    return {
        "objective/kl": kl.mean().item(),
        "objective/entropy": masked_mean(exp.entropy, exp.response).item(),
        "objective/non_score_reward": -config.kl_coef * kl.mean().item(),
        "objective/rlhf_reward": scores - config.kl_coef * kl.mean().item(),
        "objective/scores": scores,
        "val/explained_variance": explained_variance(exp.values, exp.returns, exp.response.float()).item(),
        "val/response_length": sum(c.tokens for c in completions) / len(completions),
        "eos_rate": sum(c.finish == "eos" for c in completions) / len(completions),
    }


def _solved(rows: Sequence[Row], completions: Sequence[Completion], check: Check) -> dict[str, float]:
    verdicts = [check(row["question"], c.text) for row, c in zip(rows, completions, strict=True)]
    return {} if None in verdicts else {"solved": sum(map(bool, verdicts)) / len(verdicts)}


def _samples(
    rows: Sequence[Row], completions: Sequence[Completion], scores: Sequence[float], check: Check, step: int
) -> list[Row]:
    return [
        {
            "stage": "ppo",
            "step": step,
            "arm": "policy",
            "id": row["id"],
            "question": row["question"],
            "text": completion.text,
            "reward": score,
            "solved": check(row["question"], completion.text),
        }
        for row, completion, score in list(zip(rows, completions, scores, strict=True))[:SAMPLES_PER_ITERATION]
    ]

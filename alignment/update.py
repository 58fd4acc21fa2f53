"""The optimizer steps of one iteration: epochs of minibatches, policy and value in turn."""

from __future__ import annotations

import random
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch.nn.utils import clip_grad_norm_

from alignment.backbone import Backbone
from alignment.batch import pad, token_logprobs
from alignment.config import PPOConfig
from alignment.failures import refuse_nan
from alignment.losses import kl_k2, policy_loss, value_loss
from alignment.machine import return_freed_memory
from alignment.rollout import Experience, response_logprobs, response_values

State = dict[str, Any]  # what changes besides weights: KL coefficients and the moments of the scores


def update(
    backbone: Backbone,
    optimizers: dict[str, torch.optim.Optimizer],
    exp: Experience,
    config: PPOConfig,
    state: State,
    windows: list[list[int]],
    seed: str,
    iteration: int,
) -> dict[str, float]:
    """Epochs of minibatches. Forward and backward of one role before the other's: see ``alignment.backbone``."""
    return_freed_memory()  # of sampling and scoring
    rows = list(range(len(exp.ids)))
    shuffle = random.Random(seed)
    steps: list[dict[str, float]] = []
    for _ in range(config.epochs):
        shuffle.shuffle(rows)
        for part in range(config.minibatches):
            batch = exp.rows(torch.tensor(rows[part :: config.minibatches]))
            plain = [windows[i] for i in shuffle.sample(range(len(windows)), min(config.ptx_batch_size, len(windows)))]
            step = _policy_step(backbone, optimizers["policy"], batch, config, state, plain, iteration)
            if "value" in optimizers:
                step |= _value_step(backbone, optimizers["value"], batch, config, iteration)
            steps.append(step)
        if config.target_kl is not None and steps[-1]["policy/approxkl_avg"] > config.target_kl:
            break
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]} | {"updates": len(steps)}


def _micro(batch: Experience, config: PPOConfig) -> list[Experience]:
    """This process's rows of a minibatch, as many at a time as fit."""
    world = PartialState()
    rows = torch.arange(world.process_index, len(batch.ids), world.num_processes)
    return [batch.rows(part) for part in rows.split(config.micro_batch_size or len(batch.ids)) if len(part)]


def _together(backbone: Backbone, role: str, sums: dict[str, float]) -> dict[str, float]:
    """Adds up gradients and sums over the processes, so that all take the step of the whole minibatch."""
    if PartialState().num_processes == 1:
        return sums
    parameters = backbone.parameters(role)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter).clone()
    totals = [dict(own) for own in gather_object([sums])]
    return {name: sum(own.get(name, 0.0) for own in totals) for own in totals for name in own}


def _policy_step(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    batch: Experience,
    config: PPOConfig,
    state: State,
    plain: list[list[int]],
    iteration: int,
) -> dict[str, float]:
    tokens = batch.response.sum()
    clip, kl_old = (config.clip_range, 0.0) if config.surrogate == "clip" else (None, state["kl_old_coef"])
    sums: dict[str, float] = {}
    with backbone.role("policy", train=True, checkpointing=config.gradient_checkpointing):
        for part in _micro(batch, config):
            mask = part.response.float()
            logp, entropy = response_logprobs(
                backbone, part.ids, part.mask, part.response, config.temperature, config.entropy_coef > 0
            )
            surrogate, stats = policy_loss(logp, part.logp, part.advantages, mask, clip, kl_old, tokens)
            bonus = (entropy * mask).sum() / tokens
            loss = surrogate - config.entropy_coef * bonus
            if config.kl_penalty == "loss":
                loss = loss + state["kl_coef"] * (kl_k2(logp, part.ref_logp) * mask).sum() / tokens
            loss.backward()
            found = {"loss/policy_avg": surrogate, "policy/entropy_avg": bonus} | {
                _STATS[name]: value for name, value in stats.items()
            }
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        if plain:
            sums["loss/ptx_avg"] = _ptx(backbone, plain, config)
        sums = _together(backbone, "policy", sums)
        norm = clip_grad_norm_(backbone.parameters("policy"), config.max_grad_norm)
        refuse_nan("ppo", iteration, *sums.values(), norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return_freed_memory()  # or this step's activations would stay beside those of the value model's
    return sums | {"policy/grad_norm": norm.item()}


_STATS = {
    "ratio": "val/ratio",
    "approxkl": "policy/approxkl_avg",
    "clipfrac": "policy/clipfrac_avg",
    "kl_old": "policy/kl_old",
}


def _ptx(backbone: Backbone, plain: list[list[int]], config: PPOConfig) -> float:
    """Adds the gradient of gamma E[-log pi(x)] on plain text: InstructGPT (arXiv 2203.02155), equation 2. Of several
    processes each takes some of the windows."""
    world = PartialState()
    mine = plain[world.process_index :: world.num_processes]
    if not mine:
        return 0.0
    ids, mask = pad(mine, backbone.chat.pad_id)
    wanted = mask.bool()
    wanted[:, 0] = False
    logp = token_logprobs(backbone, ids, mask, wanted)
    loss = -logp.sum() / (len(plain) * (config.ptx_length - 1))
    (config.ptx_coef * loss).backward()
    return loss.item()


def _value_step(
    backbone: Backbone, optimizer: torch.optim.Optimizer, batch: Experience, config: PPOConfig, iteration: int
) -> dict[str, float]:
    tokens, total = batch.response.sum(), 0.0
    with backbone.role("value", train=True, checkpointing=config.gradient_checkpointing):
        for part in _micro(batch, config):
            values = response_values(backbone, part.ids, part.mask, part.response)
            mask = part.response.float()
            loss = value_loss(values, part.values, part.returns, mask, config.value_clip_range, tokens)
            (config.value_coef * loss).backward()
            total += loss.item()
        total = _together(backbone, "value", {"loss": total})["loss"]
        norm = clip_grad_norm_(backbone.parameters("value"), config.max_grad_norm)
        refuse_nan("ppo", iteration, total, norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return_freed_memory()
    return {"loss/value_avg": total}

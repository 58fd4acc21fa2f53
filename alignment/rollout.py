"""Rollout to Experience: what the policy wrote, how it was scored, and the targets of the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment.backbone import Backbone
from alignment.batch import pad, token_logprobs_and_entropy
from alignment.config import PPOConfig
from alignment.decoding import Completion, Prompt
from alignment.engine import Engine, Request
from alignment.losses import (
    advantages,
    leave_one_out,
    reward_to_go,
    scale_to_unit_variance,
    token_rewards,
    whiten,
)
from alignment.schedule import batch_indices

Row = dict[str, Any]


@dataclass(frozen=True)
class Experience:
    """B rollouts. ``ids`` and ``mask`` int64 [B, P + R]: prompts padded on the left to P, responses on the right.

    ``response`` bool [B, R]: real response tokens, the end-of-text token included. ``logp``, ``ref_logp``,
    ``entropy``, ``values``, ``advantages`` (whitened), ``returns``: float32 [B, R], of the response tokens, without
    gradient. ``scores`` float32 [B]. Without a value model ``values`` are 0; with RLOO nothing is whitened.
    """

    ids: Tensor
    mask: Tensor
    response: Tensor
    logp: Tensor
    ref_logp: Tensor
    entropy: Tensor
    values: Tensor
    scores: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> Experience:
        return Experience(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Rollout:
    """One response and what was measured of its tokens, as plain data, which processes can exchange."""

    prompt: list[int]
    ids: list[int]
    finish: str
    score: float
    logp: list[float]
    ref_logp: list[float]
    entropy: list[float]
    values: list[float]


def sample(
    engine: Engine, rows: Sequence[Row], config: PPOConfig, seeds: Sequence[str], role: str = "policy"
) -> list[Completion]:
    """One response per prompt: no grammar and no top-p, or the KL estimate would be of another policy."""
    return engine.generate(
        [
            Request(row["prompt"], role=role, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed)
            for row, seed in zip(rows, seeds, strict=True)
        ]
    )


def reference_samples(
    engine: Engine, rows: Sequence[Row], config: PPOConfig, n: int, seed: int
) -> tuple[list[Prompt], list[str]]:
    """``n`` prompts and what the SFT model answers: the texts that PPO starts from. The same ones for the same seed."""
    drawn = [rows[i] for i in batch_indices(len(rows), n, 0, f"{seed}/reference/prompts")]
    written = sample(engine, drawn, config, [f"{seed}/reference/{i}" for i in range(n)], role="sft")
    return [row["prompt"] for row in drawn], [completion.text for completion in written]


def measure(
    backbone: Backbone,
    rows: Sequence[Row],
    completions: Sequence[Completion],
    scores: Sequence[float],
    config: PPOConfig,
) -> list[Rollout]:
    """Old log-probabilities (recomputed by the forward of the update, not taken from the sampler), reference
    log-probabilities, entropies and values of the response tokens."""
    prompts = [backbone.chat.prompt_ids(row["prompt"]) for row in rows]
    ids, mask, response = _tensors(prompts, [c.ids for c in completions], backbone.chat.pad_id)
    size = config.micro_batch_size or len(rows)
    parts = [(ids[i : i + size], mask[i : i + size], response[i : i + size]) for i in range(0, len(rows), size)]
    with torch.no_grad():
        with backbone.role("policy"):
            new = [response_logprobs(backbone, *part, config.temperature) for part in parts]
        with backbone.role("sft"):
            ref = torch.cat([response_logprobs(backbone, *part, config.temperature)[0] for part in parts])
        values = torch.zeros_like(ref)
        if config.has_value_model:
            with backbone.role("value"):
                values = torch.cat([response_values(backbone, *part) for part in parts])
    logp, entropy = (torch.cat(pieces) for pieces in zip(*new, strict=True))

    def of(found: Tensor, row: int) -> list[float]:
        return found[row, : len(completions[row].ids)].tolist()

    return [
        Rollout(prompt, list(done.ids), done.finish, score, of(logp, i), of(ref, i), of(entropy, i), of(values, i))
        for i, (prompt, done, score) in enumerate(zip(prompts, completions, scores, strict=True))
    ]


def assemble(
    rollouts: Sequence[Rollout], scores: Sequence[float], config: PPOConfig, kl_coef: float, pad_id: int
) -> Experience:
    """The tensors of an update with their advantages and returns. ``kl_coef`` is beta as it stands now; ``scores``
    stand for those of the rollouts, which may have been normalized."""
    ids, mask, response = _tensors([r.prompt for r in rollouts], [r.ids for r in rollouts], pad_id)

    def column(name: str) -> Tensor:
        found = torch.zeros(response.shape)
        for i, rollout in enumerate(rollouts):
            found[i, : len(rollout.ids)] = torch.tensor(getattr(rollout, name))
        return found

    logp, ref_logp, entropy, values = (column(name) for name in ("logp", "ref_logp", "entropy", "values"))
    score = torch.tensor(list(scores), dtype=torch.float32)
    in_rewards = kl_coef if config.kl_penalty == "reward" else 0.0
    advantage, returns = targets(score, logp, ref_logp, values, response.float(), config, in_rewards)
    return Experience(ids, mask, response, logp, ref_logp, entropy, values, score, advantage, returns)


def _tensors(
    prompts: list[list[int]], responses: Sequence[Sequence[int]], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    prompt_ids, prompt_mask = pad(prompts, pad_id, left=True, rounded=True)
    response_ids, response_mask = pad(responses, pad_id, rounded=True)
    mask = torch.cat([prompt_mask, response_mask], dim=1)
    return torch.cat([prompt_ids, response_ids], dim=1), mask, response_mask.bool()


def targets(
    scores: Tensor, logp: Tensor, ref_logp: Tensor, values: Tensor, mask: Tensor, config: PPOConfig, kl_coef: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [B, R] of the algorithm. Returns come from advantages before they are whitened."""
    rewards = token_rewards(scores, logp, ref_logp, mask, kl_coef)
    if config.algorithm == "rloo":  # the whole response is one action, its KL a part of its return
        total = rewards.sum(-1)
        return leave_one_out(total, config.samples_per_prompt).unsqueeze(-1) * mask, total.unsqueeze(-1) * mask
    if config.whiten_rewards:
        rewards = scale_to_unit_variance(rewards, mask)
    if config.algorithm == "reinforce":
        advantage = returns = reward_to_go(rewards, mask, config.gamma)
    else:
        advantage, returns = advantages(rewards, values, mask, config.gamma, config.lam)
    return whiten(advantage, mask), returns


def response_logprobs(
    backbone: Backbone, ids: Tensor, mask: Tensor, response: Tensor, temperature: float, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [B, R] of the response tokens under the role that is entered."""
    start = ids.shape[1] - response.shape[1]
    wanted = torch.cat([torch.zeros((len(ids), start), dtype=torch.bool), response], dim=1)
    logp, entropy = token_logprobs_and_entropy(backbone, ids, mask, wanted, temperature, entropy_grad)
    return logp[:, start:], entropy[:, start:]


def response_values(backbone: Backbone, ids: Tensor, mask: Tensor, response: Tensor) -> Tensor:
    """V of the state before each response token, [B, R]: read at the token that stands before it."""
    start = ids.shape[1] - response.shape[1]
    hidden = backbone.hidden(ids, mask).last_hidden_state[:, start - 1 : -1]
    return backbone.scalar("value", hidden) * response

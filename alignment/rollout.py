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
from alignment.losses import advantages, token_rewards, whiten
from alignment.schedule import batch_indices

Row = dict[str, Any]


@dataclass(frozen=True)
class Experience:
    """B rollouts. ``ids`` and ``mask`` int64 [B, P + R]: prompts padded on the left to P, responses on the right.

    ``response`` bool [B, R]: real response tokens, the end-of-text token included. ``logp``, ``ref_logp``,
    ``entropy``, ``values``, ``advantages`` (whitened), ``returns``: float32 [B, R], of the response tokens, without
    gradient. ``scores`` float32 [B].
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


def experience(
    backbone: Backbone,
    rows: Sequence[Row],
    completions: Sequence[Completion],
    scores: Sequence[float],
    config: PPOConfig,
) -> Experience:
    """Old log-probabilities (recomputed by the forward of the update, not taken from the sampler), reference
    log-probabilities, values, advantages and returns."""
    prompts = [backbone.chat.prompt_ids(row["prompt"]) for row in rows]
    prompt_ids, prompt_mask = pad(prompts, backbone.chat.pad_id, left=True)
    response_ids, response_mask = pad([c.ids for c in completions], backbone.chat.pad_id)
    ids = torch.cat([prompt_ids, response_ids], dim=1)
    mask = torch.cat([prompt_mask, response_mask], dim=1)
    response = response_mask.bool()
    with torch.no_grad():
        with backbone.role("policy"):
            logp, entropy = response_logprobs(backbone, ids, mask, response, config.temperature)
        with backbone.role("sft"):
            ref_logp, _ = response_logprobs(backbone, ids, mask, response, config.temperature)
        with backbone.role("value"):
            values = response_values(backbone, ids, mask, response)
    score = torch.tensor(list(scores), dtype=torch.float32)
    rewards = token_rewards(score, logp, ref_logp, response.float(), config.kl_coef)
    advantage, returns = advantages(rewards, values, response.float(), config.gamma, config.lam)
    return Experience(
        ids, mask, response, logp, ref_logp, entropy, values, score, whiten(advantage, response.float()), returns
    )


def response_logprobs(
    backbone: Backbone, ids: Tensor, mask: Tensor, response: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [B, R] of the response tokens under the role that is entered."""
    start = ids.shape[1] - response.shape[1]
    wanted = torch.cat([torch.zeros((len(ids), start), dtype=torch.bool), response], dim=1)
    logp, entropy = token_logprobs_and_entropy(backbone, ids, mask, wanted, temperature)
    return logp[:, start:], entropy[:, start:]


def response_values(backbone: Backbone, ids: Tensor, mask: Tensor, response: Tensor) -> Tensor:
    """V of the state before each response token, [B, R]: read at the token that stands before it."""
    start = ids.shape[1] - response.shape[1]
    hidden = backbone.hidden(ids, mask).last_hidden_state[:, start - 1 : -1]
    return backbone.scalar("value", hidden) * response

"""The mathematics of preference and policy learning: pure functions on tensors, each with its source.

Shapes: [B, R] is rollouts by response tokens; a mask is bool or float of the same shape, true where a token counts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def margin_ranking_loss(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 1.0) -> Tensor:
    """Mean of max(0, m - (r_chosen - r_rejected)) over pairs [N]; ``margin`` is one number or one per pair [N]."""
    return (margin - (chosen - rejected)).clamp(min=0).mean()


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """Mean of -log sigmoid(r_chosen - r_rejected - m) over pairs [N]: the negative log-likelihood, in nats, of
    Bradley and Terry's model (1952). ``margin``, one number or one per pair [N], is Llama 2's (arXiv 2307.09288,
    equation 2)."""
    return -functional.logsigmoid(chosen - rejected - margin).mean()


def regression_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of scores [N] against targets [N]."""
    return ((scores - targets) ** 2).mean()


def centring_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of (r_chosen + r_rejected)^2 over pairs [N]: pair losses know differences only, this keeps rewards around 0
    (Eisenstein et al. 2023, arXiv 2312.09244)."""
    return ((chosen + rejected) ** 2).mean()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 (with Bessel's correction) over the masked entries; 0 elsewhere."""
    mean = masked_mean(values, mask)
    centred = (values - mean) * mask
    variance = (centred**2).sum() / (mask.sum() - 1).clamp(min=1)
    return centred * (variance + 1e-8).rsqrt()


def token_rewards(scores: Tensor, logp: Tensor, ref_logp: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Per-token rewards [B, R]: -beta (log pi - log pi_ref) at every token, plus the score [B] at the last one.

    The k1 estimate of KL(pi || pi_ref) in the reward; Ziegler et al. 2019 (arXiv 1909.08593), equation 2.
    """
    rewards = -kl_coef * (logp - ref_logp) * mask
    last = mask.sum(-1).long() - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16) and returns.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1}. After a response's last token the value
    is 0, whether it ended or was cut. Returns (A, A + V), both [B, R] and 0 outside the mask.
    """
    values = values * mask
    advantage = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        next_value = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantage[:, t] = following
    return advantage, (advantage + values) * mask


def policy_loss(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, clip_range: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7), negated, mean over the masked tokens.

    Also: ``ratio`` (mean), ``approxkl`` = mean (log ratio)^2 / 2, ``clipfrac`` = share of tokens whose clipped term
    is the larger loss.
    """
    log_ratio = (logp - old_logp) * mask
    ratio = log_ratio.exp()
    unclipped = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
    stats = {
        "ratio": masked_mean(ratio, mask).detach(),
        "approxkl": masked_mean(0.5 * log_ratio**2, mask).detach(),
        "clipfrac": masked_mean((clipped > unclipped).float(), mask).detach(),
    }
    return masked_mean(torch.maximum(unclipped, clipped), mask), stats


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float) -> Tensor:
    """Half the mean of the larger squared error, of V or of V kept within ``clip_range`` of its old value
    (OpenAI baselines' ppo2)."""
    kept = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (kept - returns) ** 2), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var[returns - values] / Var[returns] over the masked tokens: 1 is perfect, 0 no better than a constant."""
    kept = mask.bool()
    variance = returns[kept].var()
    return 1 - (returns[kept] - values[kept]).var() / variance.clamp(min=1e-8)

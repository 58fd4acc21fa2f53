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


def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted sum [B, R] of the rewards from each token on, 0 outside the mask (REINFORCE, Williams 1992).

    It is ``advantages`` with a value of 0 and lambda 1."""
    return advantages(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


def leave_one_out(returns: Tensor, k: int) -> Tensor:
    """A_i = R_i - mean of the other k - 1 returns of the same prompt (RLOO, Ahmadian et al. 2024, arXiv 2402.14740,
    section 2.2). ``returns`` [B], the samples of a prompt next to each other."""
    groups = returns.view(-1, k)
    return (groups - (groups.sum(1, keepdim=True) - groups) / (k - 1)).view(-1)


def scale_to_unit_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Variance 1 over the masked entries with their mean kept: rewards keep their sign and level (TRL's
    ``masked_whiten(shift_mean=False)``)."""
    return (whiten(values, mask) + masked_mean(values, mask)) * mask


def kl_k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """log pi - log ref, of a sample of pi: unbiased for KL(pi || ref), may be negative (Schulman 2020, k1)."""
    return logp - ref_logp


def kl_k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """(log pi - log ref)^2 / 2: biased in value; as a loss on samples of pi its gradient is that of KL(pi || ref)."""
    return 0.5 * (logp - ref_logp) ** 2


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """ref/pi - 1 - log(ref/pi), of a sample of pi: unbiased and never negative; biased as a gradient of
    KL(pi || ref), right for the policy that was sampled from (kl_old). The exponent is kept within 20."""
    log_ratio = (ref_logp - logp).clamp(-20, 20)
    return log_ratio.exp() - 1 - log_ratio


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    clip_range: float | None,
    kl_old_coef: float = 0.0,
    tokens: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The negated surrogate of PPO, summed over the masked tokens and divided by ``tokens`` (default: their number;
    of a micro-batch, that of its whole minibatch, so that gradients add up to the minibatch's).

    Clipped (arXiv 1707.06347, equation 7), or with ``clip_range`` None the plain ratio with a penalty ``kl_old_coef``
    on KL(old || new) (equation 8). Also, each divided in the same way: ``ratio``, ``approxkl`` = (log ratio)^2 / 2,
    ``clipfrac`` = tokens whose clipped term is the larger loss, ``kl_old``.
    """
    count = mask.sum().clamp(min=1) if tokens is None else tokens
    log_ratio = (logp - old_logp) * mask
    ratio = log_ratio.clamp(-20, 20).exp()
    unclipped = -advantage * ratio
    clipped = unclipped if clip_range is None else -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
    kl_old = kl_k3(old_logp, logp)
    stats = {
        "ratio": ratio,
        "approxkl": 0.5 * log_ratio**2,
        "clipfrac": (clipped > unclipped).float(),
        "kl_old": kl_old,
    }
    loss = torch.maximum(unclipped, clipped) + kl_old_coef * kl_old
    return (loss * mask).sum() / count, {name: ((x * mask).sum() / count).detach() for name, x in stats.items()}


def adapt_kl_coef(coef: float, kl: float, target: float, rollouts: int, horizon: int) -> float:
    """beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon): Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.
    ``kl`` and ``target`` in nats per response."""
    return coef * (1 + min(max(kl / target - 1, -0.2), 0.2) * rollouts / horizon)


def adapt_kl_old_coef(coef: float, kl: float, target: float) -> float:
    """Half the weight when KL < target / 1.5, twice when KL > 1.5 target (arXiv 1707.06347, section 4)."""
    return coef / 2 if kl < target / 1.5 else coef * 2 if kl > target * 1.5 else coef


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip_range: float,
    tokens: Tensor | float | None = None,
) -> Tensor:
    """Half the mean of the larger squared error, of V or of V kept within ``clip_range`` of its old value
    (OpenAI baselines' ppo2). ``tokens`` as in ``policy_loss``."""
    kept = old_values + (values - old_values).clamp(-clip_range, clip_range)
    count = mask.sum().clamp(min=1) if tokens is None else tokens
    return 0.5 * (torch.maximum((values - returns) ** 2, (kept - returns) ** 2) * mask).sum() / count


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var[returns - values] / Var[returns] over the masked tokens: 1 is perfect, 0 no better than a constant."""
    kept = mask.bool()
    variance = returns[kept].var()
    return 1 - (returns[kept] - values[kept]).var() / variance.clamp(min=1e-8)

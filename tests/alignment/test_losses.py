"""Hand-worked numbers for every formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment import losses


def test_margin_ranking_by_hand() -> None:
    chosen, rejected = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 3.0])
    # max(0, 1 - 2) = 0, max(0, 1 - 0) = 1, max(0, 1 + 2) = 3
    assert losses.margin_ranking_loss(chosen, rejected, 1.0).item() == pytest.approx(4 / 3)
    # per-pair margins: max(0, 3 - 2) = 1, max(0, 0 - 0) = 0, max(0, 1 + 2) = 3
    assert losses.margin_ranking_loss(chosen, rejected, torch.tensor([3.0, 0.0, 1.0])).item() == pytest.approx(4 / 3)


def test_margin_ranking_is_torchs() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(50), torch.randn(50)
    theirs = torch.nn.functional.margin_ranking_loss(a, b, torch.ones(50), margin=0.7)
    assert losses.margin_ranking_loss(a, b, 0.7).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_token_rewards_by_hand() -> None:
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    logp = torch.tensor([[-1.0, -2, -3], [-1, -1, 9]])
    ref = torch.tensor([[-1.5, -2, -2], [-2, -1, 7]])
    # -beta (logp - ref) at each token; the score on top at the last real one
    rewards = losses.token_rewards(torch.tensor([10.0, 20.0]), logp, ref, mask, kl_coef=0.1)
    assert torch.allclose(rewards, torch.tensor([[-0.05, 0.0, 10.1], [-0.1, 20.0, 0.0]]), atol=1e-6)


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 99.0]])
    values = torch.tensor([[0.5, 1.0, 2.0], [1.0, 1.0, 99.0]])
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    # row 0, gamma 1, lambda 1/2: d2 = 3 - 2 = 1; d1 = 2 + 2 - 1 = 3; d0 = 1 + 1 - 1/2 = 3/2
    #   A2 = 1; A1 = 3 + 1/2 = 7/2; A0 = 3/2 + 7/4 = 13/4
    # row 1: d1 = 4 - 1 = 3 (nothing after it); d0 = 0 + 1 - 1 = 0; A1 = 3; A0 = 3/2
    advantage, returns = losses.advantages(rewards, values, mask, gamma=1.0, lam=0.5)
    assert torch.allclose(advantage, torch.tensor([[3.25, 3.5, 1.0], [1.5, 3.0, 0.0]]))
    assert torch.allclose(returns, torch.tensor([[3.75, 4.5, 3.0], [2.5, 4.0, 0.0]]))


def test_lambda_one_is_monte_carlo() -> None:
    torch.manual_seed(0)
    rewards, values, mask = torch.randn(4, 6), torch.randn(4, 6), torch.ones(4, 6)
    _, returns = losses.advantages(rewards, values, mask, gamma=0.9, lam=1.0)
    discounts = 0.9 ** torch.arange(6)
    for t in range(6):
        expected = (rewards[:, t:] * discounts[: 6 - t]).sum(1)
        assert torch.allclose(returns[:, t], expected, atol=1e-5)


@given(st.integers(2, 6), st.integers(2, 9), st.integers(0, 1000))
def test_whiten(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator) * 3 + 5
    mask = (torch.rand(rows, columns, generator=generator) < 0.7).float()
    mask[0, :2] = 1
    white = losses.whiten(values, mask)
    kept = white[mask.bool()]
    assert abs(kept.mean().item()) < 1e-4
    assert kept.var().item() == pytest.approx(1, abs=1e-2)
    assert (white[~mask.bool()] == 0).all()


def test_policy_loss_by_hand() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.0, 7.0]])
    advantage = torch.tensor([[2.0, -1.0, 3.0, 5.0]])
    mask = torch.tensor([[1.0, 1, 1, 0]])
    # -min(A rho, A clip(rho)): -2 * 1.2 = -2.4 (clipped); -(-1) * 0.8 = 0.8 (clipped); -3
    loss, stats = losses.policy_loss(ratio.log() * mask, torch.zeros(1, 4), advantage, mask, clip_range=0.2)
    assert loss.item() == pytest.approx((-2.4 + 0.8 - 3.0) / 3)
    assert stats["clipfrac"].item() == pytest.approx(2 / 3)
    assert stats["ratio"].item() == pytest.approx(1.0)
    assert stats["approxkl"].item() == pytest.approx((math.log(1.5) ** 2 + math.log(0.5) ** 2) / 2 / 3)


def test_first_update_has_no_kl_and_no_loss() -> None:
    torch.manual_seed(0)
    logp, mask = torch.randn(8, 5), (torch.rand(8, 5) < 0.8).float()
    mask[:, 0] = 1
    advantage = losses.whiten(torch.randn(8, 5), mask)
    loss, stats = losses.policy_loss(logp, logp, advantage, mask, 0.2)
    assert abs(loss.item()) < 1e-6 and stats["approxkl"] == 0 and stats["clipfrac"] == 0
    assert stats["ratio"].item() == pytest.approx(1.0)


def test_policy_loss_with_a_penalty_on_the_old_policy_by_hand() -> None:
    ratio, advantage, mask = torch.tensor([[2.0, 0.5]]), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2)
    # -A rho = -2 and 0.5, not clipped; KL(old || new) by k3: rho - 1 - log rho = 1 - log 2 and -0.5 + log 2
    loss, stats = losses.policy_loss(ratio.log(), torch.zeros(1, 2), advantage, mask, None, kl_old_coef=3.0)
    assert loss.item() == pytest.approx((-2 + 0.5) / 2 + 3.0 * 0.5 / 2)
    assert stats["kl_old"].item() == pytest.approx(0.25) and stats["clipfrac"] == 0


def test_losses_of_micro_batches_add_up_to_the_minibatchs() -> None:
    """Equal weight for every token, not for every micro-batch."""
    torch.manual_seed(0)
    logp, old, advantage = torch.randn(6, 5), torch.randn(6, 5), torch.randn(6, 5)
    mask = (torch.arange(5) < torch.tensor([[1], [5], [2], [4], [3], [5]])).float()
    whole, _ = losses.policy_loss(logp, old, advantage, mask, 0.2)
    values = losses.value_loss(logp, old, advantage, mask, 0.2)
    parts = [slice(0, 2), slice(2, 5), slice(5, 6)]
    tokens = mask.sum()
    added = sum(losses.policy_loss(logp[p], old[p], advantage[p], mask[p], 0.2, 0.0, tokens)[0] for p in parts)
    added_values = sum(losses.value_loss(logp[p], old[p], advantage[p], mask[p], 0.2, tokens) for p in parts)
    assert torch.isclose(whole, torch.as_tensor(added)) and torch.isclose(values, torch.as_tensor(added_values))


def test_reward_to_go_and_leave_one_out_by_hand() -> None:
    rewards, mask = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 99.0]]), torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    assert losses.reward_to_go(rewards, mask, 0.5).tolist() == [[3.0, 4.0, 4.0], [16.0, 16.0, 0.0]]
    # 1 - (4 + 7) / 2, 4 - (1 + 7) / 2, 7 - (1 + 4) / 2
    assert losses.leave_one_out(torch.tensor([1.0, 4.0, 7.0, 2.0, 2.0, 2.0]), 3).tolist() == [-4.5, 0, 4.5, 0, 0, 0]


def test_rewards_keep_their_mean_when_scaled() -> None:
    values, mask = torch.tensor([[1.0, 3.0, 50.0], [5.0, 7.0, 50.0]]), torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    # mean 4, variance 20/3: 4 + (-3, -1, 1, 3) / sqrt(20/3)
    scaled = losses.scale_to_unit_variance(values, mask)
    gap = 1 / math.sqrt(20 / 3)
    assert scaled.flatten().tolist() == pytest.approx([4 - 3 * gap, 4 - gap, 0, 4 + gap, 4 + 3 * gap, 0])


def test_kl_estimators_against_the_exact_sum() -> None:
    """On all tokens of a small vocabulary, weighted by pi: k1 and k3 are KL(pi || ref); as losses on samples of pi,
    k2 has its gradient and k3 has not."""
    torch.manual_seed(0)
    logits, ref = torch.randn(6, dtype=torch.double, requires_grad=True), torch.randn(6, dtype=torch.double)
    logp, ref_logp = logits.log_softmax(-1), ref.log_softmax(-1)
    weights = logp.exp().detach()
    exact = (logp.exp() * (logp - ref_logp)).sum()
    for estimator in (losses.kl_k1, losses.kl_k3):
        assert (weights * estimator(logp, ref_logp)).sum().item() == pytest.approx(exact.item())
    (true,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (k2,) = torch.autograd.grad((weights * losses.kl_k2(logp, ref_logp)).sum(), logits, retain_graph=True)
    (k3,) = torch.autograd.grad((weights * losses.kl_k3(logp, ref_logp)).sum(), logits, retain_graph=True)
    assert torch.allclose(k2, true) and not torch.allclose(k3, true, rtol=1e-2)
    # KL(old || new) as a function of new, on samples of old: k3 has its gradient
    new = torch.randn(6, dtype=torch.double, requires_grad=True)
    new_logp, old_weights = new.log_softmax(-1), ref_logp.exp()
    (true,) = torch.autograd.grad((old_weights * (ref_logp - new_logp)).sum(), new, retain_graph=True)
    (k3,) = torch.autograd.grad((old_weights * losses.kl_k3(ref_logp, new_logp)).sum(), new)
    assert torch.allclose(k3, true)


def test_kl_controllers_by_hand() -> None:
    # error 12/6 - 1 = 1, kept to 0.2; 0.1 (1 + 0.2 * 64 / 640) = 0.102
    assert losses.adapt_kl_coef(0.1, 12.0, 6.0, 64, 640) == pytest.approx(0.102)
    assert losses.adapt_kl_coef(0.1, 5.4, 6.0, 64, 640) == pytest.approx(0.1 * (1 - 0.1 * 0.1))
    assert [losses.adapt_kl_old_coef(1.0, kl, 0.03) for kl in (0.01, 0.03, 0.05)] == [0.5, 1.0, 2.0]


def test_value_loss_by_hand() -> None:
    values, old = torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([[0.0, 3.0, 8.0]])
    returns, mask = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    # kept: 0 + clip(1, .2) = 0.2 -> (0.2 - 2)^2 = 3.24 > 1; 3 -> 4. Half the mean: (3.24 + 4) / 4
    assert losses.value_loss(values, old, returns, mask, 0.2).item() == pytest.approx(1.81)


def test_explained_variance() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 50.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert losses.explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert losses.explained_variance(torch.zeros(1, 4), returns, mask).item() == pytest.approx(0.0)


def test_bradley_terry_by_hand() -> None:
    chosen, rejected = torch.tensor([math.log(3.0), 0.0]), torch.tensor([0.0, 0.0])
    # sigmoid(log 3) = 3/4, sigmoid(0) = 1/2: (-log 3/4 - log 1/2) / 2
    assert losses.bradley_terry_loss(chosen, rejected).item() == pytest.approx(-math.log(3 / 8) / 2)
    # margins log 3 and log 2: sigmoid(0) = 1/2, sigmoid(-log 2) = 1/3
    margin = torch.tensor([math.log(3.0), math.log(2.0)])
    assert losses.bradley_terry_loss(chosen, rejected, margin).item() == pytest.approx(-math.log(1 / 6) / 2)


def test_bradley_terry_is_finite_where_the_sigmoid_is_not() -> None:
    chosen = torch.tensor([-300.0], requires_grad=True)
    loss = losses.bradley_terry_loss(chosen, torch.tensor([300.0]))
    loss.backward()
    assert loss.item() == 600 and chosen.grad is not None and chosen.grad.item() == pytest.approx(-1)


def test_regression_and_centring_by_hand() -> None:
    # (1 - 3)^2 = 4, (0 - (-1))^2 = 1
    assert losses.regression_loss(torch.tensor([1.0, 0.0]), torch.tensor([3.0, -1.0])).item() == pytest.approx(2.5)
    # (2 - 1)^2 = 1, (3 + 1)^2 = 16, (-2 + 2)^2 = 0
    penalty = losses.centring_penalty(torch.tensor([2.0, 3.0, -2.0]), torch.tensor([-1.0, 1.0, 2.0]))
    assert penalty.item() == pytest.approx(17 / 3)

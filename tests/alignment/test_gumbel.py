"""Draws by the Gumbel-max trick: their distribution, and that rounding elsewhere does not move them."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.gumbel import draw, table


def test_the_noise_is_standard_gumbel() -> None:
    noise = table(1000, torch.device("cpu")).double()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.005)  # Euler's constant
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, rel=0.01)


@pytest.mark.parametrize("size", [2, 10, 3000])
def test_draws_follow_the_softmax(size: int) -> None:
    """Chi-squared of 40,000 draws, in up to twenty bins of equal probability, against its 99.99 % quantile."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 2
    draws = torch.tensor(draw(logits.expand(40000, size), [random.Random(i) for i in range(40000)]))
    probability = logits.double().softmax(0)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(1))
    bins = (probability[order].cumsum(0) * min(size, 20)).clamp(max=min(size, 20) - 1e-9).long()
    at = torch.empty(size, dtype=torch.long)
    at[order] = bins
    count = int(bins.max()) + 1
    want = torch.zeros(count, dtype=torch.double).index_add_(0, at, probability) * 40000
    got = torch.bincount(at[draws], minlength=count).double()
    used = want > 5
    statistic = ((got - want)[used] ** 2 / want[used]).sum().item()
    assert statistic < 60, statistic  # the quantile is 51 at 19 degrees of freedom


def test_successive_draws_of_a_stream_are_independent() -> None:
    stream = random.Random(0)
    pairs = [draw(torch.zeros(2, 2), [stream, stream]) for _ in range(8000)]
    for outcome in ([0, 0], [0, 1], [1, 0], [1, 1]):
        assert abs(pairs.count(outcome) - 2000) < 4 * (8000 * 0.25 * 0.75) ** 0.5


def test_rounding_hardly_ever_moves_a_draw() -> None:
    """Over a whole vocabulary of equal tokens, the hardest case: by inverse CDF hundreds of these would move."""
    logits = torch.zeros(400, 49152)
    noisy = logits + 1e-5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    one, other = (draw(each, [random.Random(i) for i in range(400)]) for each in (logits, noisy))
    assert len(set(one)) > 380
    assert sum(a != b for a, b in zip(one, other, strict=True)) <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=50), st.data())
def test_only_what_is_allowed(values: list[float], data: st.DataObject) -> None:
    allowed = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)).filter(any))
    logits, mask = torch.tensor([values, values]), torch.tensor(allowed)
    few = mask.nonzero().squeeze(1)
    drawn, greedy = draw(logits, [random.Random(0), None], [few, few])
    assert allowed[drawn] and values[greedy] == max(v for v, ok in zip(values, allowed, strict=True) if ok)
    hidden = logits.masked_fill(~mask, -torch.inf)  # the noise of a token is its own, whichever others there are
    assert draw(hidden, [random.Random(0), None]) == [drawn, greedy]

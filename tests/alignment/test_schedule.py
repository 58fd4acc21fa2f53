"""Which rows a step sees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from alignment.schedule import length_grouped


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 80))
def test_batches_take_every_row_once_an_epoch(lengths: list[int], size: int, steps: int) -> None:
    batches = length_grouped(lengths, size, steps, "s")
    assert [len(batch) for batch in batches] == [size] * steps
    # whole windows of 16 batches are whole stretches of the stream of epochs
    whole = steps // 16 * 16 * size
    taken = [i for batch in batches[: steps // 16 * 16] for i in batch]
    assert len(taken) == whole
    for row in range(len(lengths)):
        assert whole // len(lengths) <= taken.count(row) <= -(-whole // len(lengths))


@given(st.integers(1, 60), st.integers(1, 60))
def test_more_steps_begin_with_the_same_batches(few: int, more: int) -> None:
    lengths = list(range(40))
    assert length_grouped(lengths, 4, few + more, "s")[:few] == length_grouped(lengths, 4, few, "s")


def test_long_rows_do_not_come_first_and_batches_are_alike() -> None:
    lengths = [10 * (i % 16) + 1 for i in range(640)]
    batches = length_grouped(lengths, 4, 160, "s")
    longest = [max(range(16), key=lambda b: lengths[batches[w + b][0]]) for w in range(0, 160, 16)]
    assert len(set(longest)) > 3  # not always at the same place of a window
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert sum(spread) / len(spread) < 20  # 90 or so in random batches

"""What the council's table counts."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment import prefix_tree
from benchmarks.council_tables import shared_by, tree_tokens

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.data())
def test_the_judges_tokens_are_the_mean_over_all_choices_of_lines(texts: list[list[int]], data: st.DataObject) -> None:
    drawn = data.draw(st.integers(1, len(texts)))
    exact = fmean(prefix_tree.size(some) for some in combinations(texts, drawn))
    assert tree_tokens(shared_by(texts), len(texts), drawn) == pytest.approx(exact)

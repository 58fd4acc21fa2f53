"""Search strategies on trees that are written and scored here, by hand and by hypothesis; no model."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.search import STRATEGIES, Settings, beam, best_first, depth, dfs, mcts, visits_of, within
from agents.thought import Thought, Tree


def thought(name: str, parent: str | None, score: float | None = 0.0, status: str = "active") -> Thought:
    return Thought(id=name, parent=parent, expert="A", round=1, text=name, score=score, status=status)  # type: ignore[arg-type]


def tree(*thoughts: Thought) -> Tree:
    return {t.id: t for t in thoughts}


def grown(strategy: str, options: Settings, seed: int, rounds: int = 12) -> tuple[Tree, list[list[str | None]]]:
    """A tree as a council would grow it: random scores, some lines leave, some end; and the places of each round."""
    rng = random.Random(seed)
    found: Tree = {}
    history = []
    for _ in range(rounds):
        plan = STRATEGIES[strategy](found, options)
        for name, reason in plan.prune.items():
            found[name] = found[name].model_copy(update={"status": "pruned", "reason": reason})
        if not plan.expand:
            break
        history.append([place for place, _ in plan.expand])
        for place, count in plan.expand:
            for _ in range(count):
                at_end = depth(found, place) + 1 >= options.depth
                status = rng.choice(["active", "active", "left", "final"]) if not at_end else "final"
                new = thought(f"{len(found)}", place, rng.choice([None, rng.random()]), status)
                found[new.id] = new
    return found, history


OPTIONS = st.builds(Settings, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0, 3, allow_nan=False))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(STRATEGIES)), OPTIONS, st.integers(0, 10**6))
def test_every_strategy(strategy: str, options: Settings, seed: int) -> None:
    found, history = grown(strategy, options, seed)
    places = [place for at in history for place in at]
    assert len(places) == len(set(places)), "a place is continued once"
    for place in places:
        assert place is None or (found[place].status == "active" and depth(found, place) < options.depth)
    if strategy != "sample":
        assert all(len(at) <= options.width for at in history)
    assert all(depth(found, name) <= options.depth for name in found)
    # the same tree gives the same plan, so that a search can be taken up from its tree
    assert STRATEGIES[strategy](dict(found), options) == STRATEGIES[strategy](found, options)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["best_first", "dfs", "mcts"]), OPTIONS, st.integers(0, 10**6))
def test_what_gives_nothing_up_visits_every_line(strategy: str, options: Settings, seed: int) -> None:
    found, history = grown(strategy, options, seed, rounds=10**6)
    expanded = {place for at in history for place in at}
    assert {name for name, t in found.items() if t.status == "active"} <= expanded


def test_beam_keeps_the_best_of_its_depth() -> None:
    found = tree(thought("a", None, 0.1), thought("b", None, 0.9), thought("c", None, 0.5), thought("d", None, None))
    plan = beam(found, Settings(width=2, proposals=3, depth=3))
    assert plan.expand == [("b", 3), ("c", 3)] and set(plan.prune) == {"a", "d"}


def test_best_first_jumps_to_another_depth_and_dfs_backtracks() -> None:
    found = tree(thought("a", None, 0.9), thought("b", None, 0.8), thought("aa", "a", 0.1), thought("ab", "a", 0.3))
    assert best_first(found, Settings(depth=4)).expand == [("b", 1)]
    assert dfs(found, Settings(depth=4)).expand == [("ab", 1)]
    found["ab"] = thought("ab", "a", 0.3, "left")
    assert dfs(found, Settings(depth=4)).expand == [("aa", 1)]
    found["aa"] = thought("aa", "a", 0.1, "left")
    assert dfs(found, Settings(depth=4)).expand == [("b", 1)]


def test_uct_by_hand() -> None:
    # below the question: a (2 thoughts: 0 and 1, mean 1/2, 2 visits) and b (mean 0.4, 1 visit), 3 visits in all
    found = tree(thought("a", None, 0.0), thought("b", None, 0.4), thought("aa", "a", 1.0))
    bound = math.sqrt(math.log(4))
    worth = {c: (0.5 + c * bound / math.sqrt(2), 0.4 + c * bound) for c in (0.0, 0.1, 1.0)}
    for c, (a, b) in worth.items():
        assert mcts(found, Settings(depth=4, exploration=c)).expand == [("aa" if a > b else "b", 1)]
    assert worth[0.0][0] > worth[0.0][1] and worth[1.0][0] < worth[1.0][1]  # both cases occur
    both = mcts(found, Settings(width=2, depth=4, exploration=0.0)).expand
    assert sorted(name for name, _ in both) == ["aa", "b"]
    assert visits_of(found) == {None: 3, "a": 2, "b": 1, "aa": 1}


@pytest.mark.parametrize("strategy", ["beam", "best_first", "dfs", "mcts"])
def test_a_perfect_scorer_goes_straight(strategy: str) -> None:
    """A binary tree of depth 6 with one leaf that is wanted: the oracle leads straight to it."""
    want = "010011"
    found: Tree = {}
    options = Settings(width=1, proposals=2, depth=6, exploration=0.0)
    for step in range(6):
        [(place, count)] = STRATEGIES[strategy](found, options).expand
        assert (place or "") == want[:step] and count == 2
        for digit in "01":
            name = (place or "") + digit
            status = "final" if len(name) == 6 else "active"
            found[name] = thought(name, place, float(want.startswith(name)), status)
    assert want in found


def test_a_budget_cuts_a_plan() -> None:
    plan = beam(tree(thought("a", None, 0.1), thought("b", None, 0.9)), Settings(width=2, proposals=4, depth=3))
    assert within(plan, 6).expand == [("b", 4), ("a", 2)] and within(plan, 0).expand == []


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_question_is_continued_as_a_whole_round(strategy: str) -> None:
    assert STRATEGIES[strategy]({}, Settings(width=3, proposals=4)).expand == [(None, 12)]

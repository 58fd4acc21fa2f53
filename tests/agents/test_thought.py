from __future__ import annotations

import re

import pytest

from agents.thought import Thought, line, merge, read, step_grammar, vote
from graphs.tasks import game24


def test_line_and_merge() -> None:
    tree = {
        t.id: t
        for t in (
            Thought(id=i, parent=p, expert="A", round=1, text=i) for i, p in (("a", None), ("b", "a"), ("c", "a"))
        )
    }
    assert line(tree, "c") == ["a", "c"] and line(tree, None) == []
    assert merge(tree, {"c": tree["c"].model_copy(update={"score": 1.0})})["c"].score == 1.0


@pytest.mark.parametrize(
    ("text", "finish", "status"),
    [
        ("1 + 2 = 3 (left: 3 4)\n", "stop", "active"),
        ("1 + 2 = 3 (left: 3)", "eos", "final"),
        ("ANSWER: 7\n", "stop", "final"),
        ("LEAVE: I was wrong\n", "stop", "left"),
        ("LEAVE: cut", "length", "left"),
        ("1 + 2 =", "length", "pruned"),
        ("", "eos", "pruned"),
    ],
)
def test_read(text: str, finish: str, status: str) -> None:
    assert read(text, finish)[1] == status


def test_step_grammar() -> None:
    grammar = step_grammar(game24.STEP)
    for text in ("10 - 4 = 6 (left: 5 6 6)\n", "8 / 3 = 8/3 (left: 8/3 3)", "LEAVE: 2 9 cannot make 24", "ANSWER: 24"):
        assert re.fullmatch(grammar, text)
    for text in ("", "10 - 4 = 6", "10 - 4 = 6 (left: )", "LEAVE: a\nb", "10 ** 4 = 6 (left: 5)"):
        assert not re.fullmatch(grammar, text)


def test_vote_by_hand() -> None:
    # exp(0) + exp(0.2) = 2.22 of two lines that agree outweigh exp(0.7) = 2.01; the better of the two is given
    assert vote(["x", "y", "x"], [0.0, 0.7, 0.2]) == 2
    assert vote(["x", "y", "x"], [0.0, 0.9, 0.2]) == 1  # 2.46
    assert vote(["x", "y", "x"], [0.0, 0.9, 0.2], "majority") == 2
    assert vote(["x", "y", "x"], [0.0, 0.9, 1.0], "best") == 2
    assert vote(["x", "y"], [-1e6, -1e6 + 1]) == 1  # no exponential overflows, nor is it lost

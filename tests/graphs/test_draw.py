"""Graphs as text: every edge can be followed in the drawing, and what is drawn is what LangGraph runs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.cli.draw import in_order, picture
from graphs.cli.main import main
from graphs.cli.run import GRAPHS

SIDES = {
    "│": "ud", "┆": "ud", "─": "lr", "┄": "lr", "┐": "dl", "┘": "ul", "└": "ur", "┌": "dr", "┤": "udl", "├": "udr",
    "┬": "dlr", "┴": "ulr", "┼": "udlr",
}  # fmt: skip
STEPS = {"u": (0, -1), "d": (0, 1), "l": (-1, 0), "r": (1, 0)}
BACK = {"u": "d", "d": "u", "l": "r", "r": "l"}


def followed(drawing: str) -> set[tuple[str, str]]:
    """The edges of a drawing, read back by walking its lines from below each node. At a crossing a walk goes straight
    on, at a branch everywhere."""
    rows = drawing.split("\n")
    names = {y: row.split(" ")[0] for y, row in enumerate(rows) if row and row[0] not in SIDES and row[0] != " "}

    def at(x: int, y: int) -> str:
        return rows[y][x] if 0 <= y < len(rows) and 0 <= x < len(rows[y]) else " "

    edges = set()
    for y, name in names.items():
        walks, seen = [(0, y + 1, "d")], set()
        while walks:
            x, row, heading = walks.pop()
            if (x, row, heading) in seen:
                continue
            seen.add((x, row, heading))
            if row in names and (x == 0 or at(x, row) == "◂"):
                edges.add((name, names[row]))
                continue
            sides = SIDES.get(at(x, row), "")
            if BACK[heading] not in sides:
                continue
            ways = heading if sides == "udlr" else sides.replace(BACK[heading], "")
            walks += [(x + STEPS[w][0], row + STEPS[w][1], w) for w in ways]
    return edges


# at most one edge that is not to the next node leaves or enters each node, so that no two lines meet on a row
@given(st.integers(2, 7), st.data())
def test_a_chain_with_jumps_can_be_read_back(size: int, data: st.DataObject) -> None:
    names = [f"n{i}" for i in range(size)]
    edges = [(a, b, data.draw(st.booleans())) for a, b in zip(names, names[1:], strict=False)]
    back = data.draw(st.lists(st.integers(0, size - 2), unique=True, max_size=2))
    edges += [(names[-1], names[target], True) for target in back[:1]]
    if len(back) == 2 and back[1] + 2 < size:
        edges.append((names[back[1]], names[-1], False))
    assert in_order(names, edges) == names
    assert followed(picture(names, edges)) == {(a, b) for a, b, _ in edges}


def test_a_drawing_by_hand() -> None:
    edges = [("a", "b", False), ("b", "c", True), ("b", "a", True), ("c", "d", False), ("a", "d", True)]
    assert picture(["a", "b", "c", "d"], edges).split("\n") == [
        "a ◂┄┐",
        "├┄┄┄┼┄┄┐",
        "b   ┆  ┆",
        "├┄┄┄┘  ┆",
        "c      ┆",
        "│      ┆",
        "d ◂┄┄┄┄┘",
    ]


def test_the_council_is_drawn_with_its_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graphs", "council", "--draw"]) == 0
    drawing = capsys.readouterr().out.split("\n\n")[1]
    assert followed(drawing) >= {("start", "summon"), ("think", "judge"), ("share", "think"), ("conclude", "end")}


def test_every_graph_is_listed_with_its_edges(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graphs", "--draw", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["graphs"]
    assert [graph["name"] for graph in listed] == list(GRAPHS)
    for graph in listed:
        assert {"start", "end"} <= set(graph["nodes"]) and not any("error" in node for node in graph["nodes"])
        assert {name for source, target, _ in graph["edges"] for name in (source, target)} == set(graph["nodes"])
        assert graph["mermaid"].count("-->") + graph["mermaid"].count("-.->") == len(graph["edges"])


def test_mermaid_source_of_one_graph_is_bare_and_of_all_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graphs", "evaluate", "--mermaid"]) == 0
    assert capsys.readouterr().out.startswith("---\nconfig:")  # where Mermaid looks for it
    assert main(["graphs", "--mermaid"]) == 0
    assert capsys.readouterr().out.count("```mermaid") == len(GRAPHS)
    assert main(["graphs", "counsil", "--draw"]) == 2
    assert 'did you mean "council"?' in capsys.readouterr().err

"""``junto graphs --draw``: the nodes and edges of a graph as text, and as Mermaid source."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Sequence
from typing import IO, Any

Edge = tuple[str, str, bool]  # from, to, whether it depends on the state

LEGEND = "│ ─ always   ┆ ┄ depends on the state"
MODULES = {"evaluate": "evaluation.graph"}  # those that are not called as the graph is
UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
LINES = {
    UP | DOWN: "│", LEFT | RIGHT: "─", DOWN | LEFT: "┐", UP | LEFT: "┘", UP | RIGHT: "└", DOWN | RIGHT: "┌",
    UP | DOWN | LEFT: "┤", UP | DOWN | RIGHT: "├", LEFT | RIGHT | DOWN: "┬", LEFT | RIGHT | UP: "┴",
    UP | DOWN | LEFT | RIGHT: "┼",
}  # fmt: skip
DOTTED = {UP | DOWN: "┆", LEFT | RIGHT: "┄"}


def described(name: str) -> dict[str, Any]:
    """``{"nodes", "edges", "mermaid"}`` of the graph in the module ``graphs.<name>``, without the nodes that LangGraph
    adds for errors: nothing leads to them that is drawn."""
    drawn = importlib.import_module(f"graphs.{MODULES.get(name, name)}").graph.get_graph()
    for node in [node for node in drawn.nodes.values() if node.id.startswith("__error_handler__")]:
        drawn.remove_node(node)
    return {
        "nodes": [_plain(name) for name in drawn.nodes],
        "edges": [(_plain(e.source), _plain(e.target), bool(e.conditional)) for e in drawn.edges],
        "mermaid": drawn.draw_mermaid(),
    }


def print_drawings(graphs: Sequence[dict[str, Any]], mermaid: bool, out: IO[str]) -> None:
    """The graphs under each other: as text, or as Mermaid source; several of those in Markdown."""
    if mermaid and len(graphs) == 1:
        out.write(graphs[0]["mermaid"])
    elif mermaid:
        out.write("\n".join(f"## {graph['name']}\n\n```mermaid\n{graph['mermaid']}```\n" for graph in graphs))
    else:
        for graph in graphs:
            out.write(f"{graph['name']}: {graph['summary']}\n\n{picture(graph['nodes'], graph['edges'])}\n\n")
        out.write(f"{LEGEND}\n")


def picture(nodes: Sequence[str], edges: Sequence[Edge]) -> str:
    """The nodes under each other, what comes first at the top. An edge to the next node goes down between the two; any
    other one leaves below its node, runs at the right, and enters beside the node that it leads to."""
    rows = {name: 2 * i for i, name in enumerate(in_order(nodes, edges))}
    cells: dict[tuple[int, int], int] = defaultdict(int)  # (column, row): the sides that its lines go to
    dotted: dict[tuple[int, int], bool] = {}
    rails: dict[tuple[str, bool], list[int]] = defaultdict(list)  # (to, depends): the rows that its edges leave on
    for source, target, depends in edges:
        below = rows[source] + 1
        if rows[target] == below + 1:
            cells[0, below] |= UP | DOWN
            dotted[0, below] = depends
        else:
            rails[target, depends].append(below)
    first = max(map(len, rows), default=0) + 3
    taken: list[list[tuple[int, int]]] = []  # by lane: the spans on it
    for (target, depends), sources in sorted(rails.items(), key=lambda one: _span(rows[one[0][0]], one[1])):
        top, bottom = min(rows[target], *sources), max(rows[target], *sources)
        lane = next((i for i, spans in enumerate(taken) if all(b < top or bottom < t for t, b in spans)), len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((top, bottom))
        x = first + 3 * lane
        for y in range(top, bottom + 1):
            cells[x, y] |= (UP if y > top else 0) | (DOWN if y < bottom else 0)
            dotted.setdefault((x, y), depends)
        for y in (rows[target], *sources):
            begin = len(target) + 2 if y == rows[target] else 0
            cells[x, y] |= LEFT
            cells[begin, y] |= RIGHT | (UP if y != rows[target] else LEFT)
            for between in range(begin + 1, x):
                cells[between, y] |= LEFT | RIGHT
            for at in range(begin, x):
                dotted.setdefault((at, y), depends)
    names = {row: name for name, row in rows.items()}
    entered = {rows[target] for target, _ in rails}
    drawn = (_row(y, names, entered, cells, dotted) for y in range(2 * len(rows)))
    return "\n".join(drawn).rstrip()


def in_order(nodes: Sequence[str], edges: Sequence[Edge]) -> list[str]:
    """From the first node on, each before those that it leads to, but for edges that lead back (reverse postorder of a
    depth-first walk); nodes that cannot be reached come last."""
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target, _ in edges:
        after[source].append(target)
    found: list[str] = []
    seen: set[str] = set()

    def walk(name: str) -> None:
        seen.add(name)
        for target in after[name]:
            if target not in seen:
                walk(target)
        found.append(name)

    for name in nodes[:1]:
        walk(name)
    return found[::-1] + [name for name in nodes if name not in seen]


def _span(row: int, sources: Sequence[int]) -> tuple[int, int]:
    """Short rails first: they run inside."""
    return max(row, *sources) - min(row, *sources), row


def _row(
    y: int,
    names: dict[int, str],
    entered: set[int],
    cells: dict[tuple[int, int], int],
    dotted: dict[tuple[int, int], bool],
) -> str:
    text = names.get(y, "") + (" ◂" if y in entered else "")
    width = max((x for x, row in cells if row == y), default=-1) + 1
    for x in range(len(text), width):
        sides = cells.get((x, y), 0)
        text += (DOTTED if dotted.get((x, y)) else {}).get(sides) or LINES.get(sides, " ")
    return text.rstrip()


def _plain(name: str) -> str:
    return name.strip("_") if name in ("__start__", "__end__") else name

"""Where the thoughts of a council stand: their order as a tree, and the boxes of a left-to-right drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Thought = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """A thought in its tree. ``index``, ``parent`` and ``children`` are positions in the list of thoughts."""

    index: int
    parent: int | None
    depth: int
    children: tuple[int, ...]
    thought: Thought


def order(thoughts: Sequence[Thought]) -> list[Node]:
    """Every thought exactly once, parents before children, siblings as given.

    A thought whose parent is unknown stands as a root; a cycle is cut at one of its members.
    """
    first: dict[str, int] = {}
    for index, thought in enumerate(thoughts):
        first.setdefault(str(thought.get("id")), index)
    parents: list[int | None] = []
    for index, thought in enumerate(thoughts):
        parent = None if thought.get("parent") is None else first.get(str(thought["parent"]))
        parents.append(None if parent == index else parent)
    walk: dict[int, int] = {}  # which walk up the parents met a thought first
    for index in range(len(thoughts)):
        at: int | None = index
        while at is not None and at not in walk:
            walk[at] = index
            at = parents[at]
        if at is not None and walk[at] == index:
            parents[at] = None
    children: list[list[int]] = [[] for _ in thoughts]
    for index, parent in enumerate(parents):
        if parent is not None:
            children[parent].append(index)
    nodes: list[Node] = []
    stack = [(index, 0) for index in reversed(range(len(thoughts))) if parents[index] is None]
    while stack:
        index, depth = stack.pop()
        nodes.append(Node(index, parents[index], depth, tuple(children[index]), thoughts[index]))
        stack += [(child, depth + 1) for child in reversed(children[index])]
    return nodes


def path(nodes: Sequence[Node], index: int) -> list[int]:
    """Positions of a thought's line, from its root to itself."""
    parents = {node.index: node.parent for node in nodes}
    line: list[int] = []
    at: int | None = index
    while at is not None:
        line.append(at)
        at = parents[at]
    return line[::-1]


def answers(council: Mapping[str, Any], nodes: Sequence[Node]) -> set[int]:
    """Positions of the final thoughts that give the council's answer.

    A final thought gives it if its text, or its line's text, is the answer; failing that, if one contains the
    other; failing that, if it is the only final thought. Without an answer there are none.
    """
    answer = " ".join(str(council.get("answer") or "").split())
    final = [node.index for node in nodes if node.thought.get("status") == "final"]
    if not answer or not final:
        return set()
    texts = {node.index: " ".join(str(node.thought.get("text") or "").split()) for node in nodes}
    lines = {index: " ".join(texts[i] for i in path(nodes, index)) for index in final}
    same = {i for i in final if answer in (texts[i], lines[i])}
    if same:
        return same
    alike = {i for i in final if texts[i] and (answer in lines[i] or texts[i] in answer)}
    return alike or (set(final) if len(final) == 1 else set())


def columns(nodes: Sequence[Node]) -> dict[int, int]:
    """Column of each thought, from 0: its round, right of its parent; unused columns are left out."""
    rounds = {n.index: r for n in nodes if isinstance(r := n.thought.get("round"), int)}
    first = min(rounds.values(), default=0)
    raw: dict[int, int] = {}
    for node in nodes:
        least = 0 if node.parent is None else raw[node.parent] + 1
        raw[node.index] = max(least, rounds.get(node.index, first) - first)
    rank = {column: position for position, column in enumerate(sorted(set(raw.values())))}
    return {index: rank[column] for index, column in raw.items()}


def depths(nodes: Sequence[Node]) -> dict[int, int]:
    """Column of each thought, from 0: how many stand before it in its line."""
    return {node.index: node.depth for node in nodes}


def raised(nodes: Sequence[Node], heights: Mapping[int, float], middles: Mapping[int, float]) -> dict[int, float]:
    """Vertical centres in place of those of ``centres``: a box stands at the height of its first child, so that a tall
    tree is read from its top. No box leaves the room of its subtree."""
    found: dict[int, float] = {}
    tops: dict[int, float] = {}  # of the room of a subtree
    for node in reversed(nodes):
        tops[node.index] = min([tops[c] for c in node.children] + [middles[node.index] - heights[node.index] / 2])
        least = tops[node.index] + heights[node.index] / 2
        found[node.index] = max(least, found[node.children[0]]) if node.children else middles[node.index]
    return found


def centres(nodes: Sequence[Node], heights: Mapping[int, float], gap: float) -> tuple[dict[int, float], float]:
    """Vertical centre of each box, and the height of the whole.

    A subtree takes the greater of its root's height and its children's, stacked with ``gap`` between them;
    roots are stacked the same way. So no two boxes of one column overlap.
    """
    span: dict[int, float] = {}
    for node in reversed(nodes):
        inner = sum(span[c] for c in node.children) + gap * max(0, len(node.children) - 1)
        span[node.index] = max(heights[node.index], inner)
    inside = {n.index: sum(span[c] for c in n.children) + gap * max(0, len(n.children) - 1) for n in nodes}
    top: dict[int, float] = {}
    free = 0.0
    for node in nodes:
        if node.parent is None:
            top[node.index] = free
            free += span[node.index] + gap
        start = top[node.index] + (span[node.index] - inside[node.index]) / 2
        for child in node.children:
            top[child] = start
            start += span[child] + gap
    return {i: top[i] + span[i] / 2 for i in top}, max(0.0, free - gap)

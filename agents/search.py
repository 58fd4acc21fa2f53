"""Search over a thought tree: which thoughts to continue next, as pure functions of the tree.

``generate o evaluate o select`` of Tree of Thoughts (Yao et al. 2023, arXiv 2305.10601): the caller writes the steps
and scores them; a function here looks at the tree that there is and says what to do next. A tree is a dict, so a
search can be interrupted and taken up from its tree alone. Higher scores are better; a thought without one is worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from agents.thought import Thought, Tree

Place = str | None  # a thought that is continued; None is the question itself


@dataclass(frozen=True)
class Plan:
    """What a strategy wants: how many proposals from which place, and which thoughts it gives up, with the reason."""

    expand: list[tuple[Place, int]] = field(default_factory=list)
    prune: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """``width`` places are continued at once by ``proposals`` each, the question alone by as many as all of them
    together: a search whose first steps are all wrong has nothing to choose from. Lines have up to ``depth`` steps;
    ``exploration`` is the constant c of UCT."""

    width: int = 1
    proposals: int = 1
    depth: int = 4
    exploration: float = 1.0


Strategy = Callable[[Tree, Settings], Plan]


def sample(tree: Tree, settings: Settings) -> Plan:
    """Independent lines: ``width`` times ``proposals`` first steps, each continued by one step a time."""
    if not tree:
        return _first(settings)
    return Plan([(place, 1) for place in _open(tree, settings)])


def beam(tree: Tree, settings: Settings) -> Plan:
    """The ``width`` best of the newest depth; the others of that depth are given up (ToT's breadth-first search)."""
    if not tree:
        return _first(settings)
    leaves = _open(tree, settings)
    newest = max((depth(tree, leaf) for leaf in leaves), default=0)
    ranked = _best([leaf for leaf in leaves if depth(tree, leaf) == newest], tree)
    reason = f"not among the best {settings.width}"
    return Plan([(leaf, settings.proposals) for leaf in ranked[: settings.width]], _given_up(ranked, settings, reason))


def best_first(tree: Tree, settings: Settings) -> Plan:
    """The ``width`` best of all thoughts that nobody has continued, whatever their depth (Pearl 1984)."""
    if not tree:
        return _first(settings)
    return Plan([(leaf, settings.proposals) for leaf in _best(_open(tree, settings), tree)[: settings.width]])


def dfs(tree: Tree, settings: Settings) -> Plan:
    """The best of the deepest thoughts; where a line ends, its best sibling: backtracking (ToT, algorithm 2)."""
    if not tree:
        return _first(settings)
    ranked = sorted(_best(_open(tree, settings), tree), key=lambda leaf: -depth(tree, leaf))
    return Plan([(leaf, settings.proposals) for leaf in ranked[: settings.width]])


def mcts(tree: Tree, settings: Settings) -> Plan:
    """Monte-Carlo tree search (UCT, Kocsis and Szepesvari 2006): from the question down to the child with the highest
    ``mean + c sqrt(ln N / n)`` until a place that has not been continued.

    A score takes the place of a rollout's return. Means are over a thought and all below it, of scores scaled to 0..1
    over the tree; a line that was left or pruned counts 0. Where ``width`` is above 1, a place that was picked counts
    as visited before the next is picked (virtual loss). Lines that are over are not entered again.
    """
    if not tree:
        return _first(settings)
    below = children(tree)
    values = _scaled(tree)
    visits = {place: float(n) for place, n in visits_of(tree).items()}
    totals: dict[Place, float] = {None: 0.0} | {name: 0.0 for name in tree}
    for name in tree:
        for above in _up(tree, name):
            totals[above] += values[name]
    picked: list[str] = []
    for _ in range(settings.width):
        able = {at for leaf in _open(tree, settings) if leaf not in picked for at in _up(tree, leaf)}
        if not able:
            break
        place: Place = None
        while below.get(place):
            seen = math.log(visits[place] + 1)
            place = max(
                (child for child in below[place] if child in able),
                key=lambda c: totals[c] / visits[c] + settings.exploration * math.sqrt(seen / visits[c]),
            )
        assert place is not None  # the question has been continued
        picked.append(place)
        for passed in (*_up(tree, place), None):
            visits[passed] += 1
    return Plan([(place, settings.proposals) for place in picked])


STRATEGIES: dict[str, Strategy] = {
    "sample": sample,
    "beam": beam,
    "best_first": best_first,
    "dfs": dfs,
    "mcts": mcts,
}


def within(plan: Plan, proposals: float) -> Plan:
    """The plan with no more than so many proposals: the first places keep theirs."""
    kept = []
    for place, count in plan.expand:
        if count := int(min(count, proposals)):
            kept.append((place, count))
            proposals -= count
    return Plan(kept, plan.prune)


def _first(settings: Settings) -> Plan:
    return Plan([(None, settings.width * settings.proposals)])


# -- the tree ---------------------------------------------------------------------------------------------


def depth(tree: Tree, place: Place) -> int:
    """Steps from the question to ``place``."""
    return 0 if place is None else 1 + depth(tree, tree[place].parent)


def children(tree: Tree) -> dict[Place, list[str]]:
    """The thoughts below each place, in the order of the tree."""
    found: dict[Place, list[str]] = {}
    for thought in tree.values():
        found.setdefault(thought.parent, []).append(thought.id)
    return found


def visits_of(tree: Tree) -> dict[Place, int]:
    """How many thoughts there are at and below each place."""
    found: dict[Place, int] = {None: 0} | {name: 0 for name in tree}
    for name in tree:
        for place in (*_up(tree, name), None):
            found[place] += 1
    return found


def _up(tree: Tree, name: str) -> list[str]:
    """A thought and those above it."""
    found = []
    place: Place = name
    while place is not None:
        found.append(place)
        place = tree[place].parent
    return found


def _open(tree: Tree, settings: Settings) -> list[str]:
    """Active thoughts that nobody has continued and that have room for one more step."""
    below = children(tree)
    return [
        t.id for t in tree.values() if t.status == "active" and t.id not in below and depth(tree, t.id) < settings.depth
    ]


def _score(thought: Thought) -> float:
    return -math.inf if thought.score is None else thought.score


def _best(names: Iterable[str], tree: Tree) -> list[str]:
    """The highest score first; equal ones in the order of the tree."""
    return sorted(names, key=lambda name: -_score(tree[name]))


def _given_up(ranked: Sequence[str], settings: Settings, reason: str) -> dict[str, str]:
    return {name: reason for name in ranked[settings.width :]}


def _scaled(tree: Tree) -> dict[str, float]:
    known = [t.score for t in tree.values() if t.score is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)

    def value(thought: Thought) -> float:
        if thought.score is None or thought.status in ("left", "pruned"):
            return 0.0
        return (thought.score - low) / (high - low) if high > low else 0.5

    return {name: value(thought) for name, thought in tree.items()}

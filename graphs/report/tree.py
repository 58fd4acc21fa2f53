"""A council's thought tree: as an SVG picture, and as a nested list that holds every text in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from graphs.report.formats import clean, duration, finite, fixed, number, wrap
from graphs.report.palette import LIGHT, SERIES, colour_class, resolve
from graphs.report.tree_layout import Node, Thought, answers, centres, columns, depths, order, path, raised

BOX, QUESTION, GAP_X, GAP_Y, MARGIN = 224, 120, 32, 14, 20  # widths of boxes, gaps, and the border; pixels
LINE, HEAD = 17, 26  # height of a text line, and of a box's first line
ROOM, LINES = (BOX - 24) / 13, 4  # ems of a line and lines of a text; the rest is in the nested list
TALL = 1000  # pixels; a tree that is taller is read from its top, the answer's line first
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'

# Shared with the page, which gives the variables; a saved picture gets the light values written in.
STYLE = f"""
.tree text {{ font: 13px {FONT}; fill: var(--ink); font-variant-numeric: tabular-nums; }}
.tree .t-soft {{ fill: var(--soft); font-size: 12px; }}
.tree .t-bold {{ font-weight: 650; }}
.tree .t-title {{ font-size: 16px; font-weight: 650; }}
.tree .t-good {{ fill: var(--good); font-weight: 650; }}
.tree .t-bad {{ fill: var(--bad); }}
.tree .t-box {{ fill: var(--paper); stroke: var(--rule); stroke-width: 1.2; }}
.tree .t-question {{ fill: var(--panel); }}
.tree .t-left {{ stroke: var(--bad); stroke-dasharray: 5 3; }}
.tree .t-pruned {{ stroke: var(--rule); stroke-dasharray: 2 3; }}
.tree .t-dim text {{ fill: var(--soft); font-weight: 400; }}
.tree .t-final {{ stroke: var(--ink); }}
.tree .t-passed {{ stroke: var(--good); stroke-width: 1.8; }}
.tree .t-answer {{ stroke: var(--good); stroke-width: 2.6; }}
.tree .t-edge {{ fill: none; stroke-width: 1.4; opacity: 0.75; }}
.tree .t-way {{ stroke-width: 3.4; opacity: 1; }}
.tree .t-faint {{ opacity: 0.35; }}
""" + "".join(
    f".tree .e{i} {{ fill: var(--c{i}); }}\n.tree .l{i} {{ stroke: var(--c{i}); }}\n" for i in range(1, SERIES + 1)
)


def expert_colours(council: Mapping[str, Any]) -> dict[str, str]:
    """Colour class of each expert, in the order of the list, then in order of appearance."""
    names = [str(e.get("name")) for e in council.get("experts") or []]
    names += [str(t.get("expert")) for t in council.get("thoughts") or []]
    return {name: colour_class(i) for i, name in enumerate(dict.fromkeys(names))}


def score_text(score: Any) -> str:
    """A score with two decimals, or nothing where none was given."""
    value = finite(score)
    return "" if value is None else f"score {fixed(value, 2)}"


def visits_text(visits: Any) -> str:
    """How often a search came by, or nothing where it does not count."""
    return "" if finite(visits) is None else f"{number(visits)} visit{'' if visits == 1 else 's'}"


def status_words(thought: Thought, is_answer: bool) -> str:
    """How a thought ended: "answer", "finished", "left: reason", "pruned"; nothing while it goes on."""
    status = thought.get("status")
    if is_answer:
        return "answer"
    word = {"final": "finished", "left": "left", "pruned": "pruned"}.get(str(status), "")
    reason = str(thought.get("reason") or "").strip()
    return f"{word}: {reason}" if word and reason else word


def verdict(solved: Any) -> tuple[str, str]:
    """(words, class) of a checker's verdict: true, false, or none where the task has no checker."""
    if solved is True:
        return "✓ solved", "good"
    return ("✕ not solved", "bad") if solved is False else ("not checked", "soft")


def summary(council: Mapping[str, Any]) -> str:
    """One line: rounds, tokens, seconds; what is unknown is left out."""
    parts = []
    if finite(council.get("rounds")) is not None:
        parts.append(f"{number(council['rounds'])} round{'' if council['rounds'] == 1 else 's'}")
    if finite(council.get("tokens")) is not None:
        parts.append(f"{number(council['tokens'])} tokens")
    if finite(council.get("seconds")) is not None:
        parts.append(duration(council["seconds"]))
    return " · ".join(parts)


def expert_words(expert: Mapping[str, Any]) -> str:
    """An expert's end in words: "left: reason"."""
    reason = str(expert.get("reason") or "").strip()
    return f"{expert.get('status') or ''}: {reason}" if reason else str(expert.get("status") or "")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(text)}</text>'


def _kind(thought: Thought, is_answer: bool) -> str:
    status = str(thought.get("status") or "active")
    return "answer" if is_answer else status if status in ("left", "pruned", "final") else "active"


def _lines(thought: Thought, is_answer: bool) -> tuple[list[str], list[str]]:
    """The lines of a box: the text, and how it ended."""
    ended = status_words(thought, is_answer)
    mark = {"answer": "✓ ", "left": "✕ "}.get(_kind(thought, is_answer), "")
    return wrap(str(thought.get("text") or ""), ROOM, LINES), wrap(mark + ended, ROOM, LINES) if ended else []


def _height(thought: Thought, is_answer: bool) -> float:
    return HEAD + LINE * sum(map(len, _lines(thought, is_answer))) + 8


def _box(node: Node, x: float, middle: float, height: float, colour: str, is_answer: bool, passed: bool) -> str:
    """One thought: expert, score and visits, text, and how it ended. ``passed``: the answer's line goes through it."""
    thought = node.thought
    y = middle - height / 2
    kind = _kind(thought, is_answer)
    counted = visits_text(thought.get("visits"))
    whole = f"{thought.get('expert')}: {thought.get('text') or ''}"
    said, ended = _lines(thought, is_answer)
    out = [
        f'<g class="t-thought{" t-dim" if kind == "pruned" else ""}" data-thought="{escape(str(thought.get("id")))}">'
        f"<title>{escape(whole)}</title>"
        f'<rect class="t-box t-{"passed" if passed and not is_answer else kind}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{BOX}" height="{height:.1f}" rx="4"/>'
        f'<rect class="e{colour}" x="{x:.1f}" y="{y:.1f}" width="5" height="{height:.1f}" rx="2"/>',
        _text(x + 14, y + 18, wrap(str(thought.get("expert")), 4 if counted else 8, 1)[0], f"t-bold e{colour}"),
        _text(
            x + BOX - 10, y + 18, " · ".join(filter(None, (score_text(thought.get("score")), counted))), "t-soft", "end"
        ),
    ]
    at = y + HEAD + 11
    for line in said:
        out.append(_text(x + 14, at, line))
        at += LINE
    for line in ended:
        out.append(_text(x + 14, at, line, {"answer": "t-good", "left": "t-bad"}.get(kind, "t-soft")))
        at += LINE
    return "".join(out) + "</g>"


def _edge(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    half = (x2 - x1) / 2
    curve = f"M{x1:.1f} {y1:.1f}C{x1 + half:.1f} {y1:.1f} {x2 - half:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f'<path class="t-edge {kind}" d="{curve}"/>'


def tree_svg(council: Mapping[str, Any], standalone: bool = True) -> str:
    """The thought tree as one SVG: the question at the left, a column per round, a box per thought.

    Args:
        council: the JSON of one council (``junto run council --json``).
        standalone: with its own style, a white ground, the answer and the experts' ends, to be saved as a
            picture; otherwise only the tree, for a page that holds ``STYLE`` and the colours.
    """
    nodes, chosen, way = _way(council, council.get("thoughts") or [])
    colours = expert_colours(council)
    heights = {n.index: _height(n.thought, n.index in chosen) for n in nodes}
    middles, tall = centres(nodes, heights, GAP_Y)
    if tall > TALL:
        thoughts = [n.thought for n in sorted(nodes, key=lambda n: (n.index not in way, n.index))]
        nodes, chosen, way = _way(council, thoughts)
        heights = {n.index: _height(n.thought, n.index in chosen) for n in nodes}
        middles = raised(nodes, heights, centres(nodes, heights, GAP_Y)[0])
    place, by_depth = columns(nodes), depths(nodes)
    stepwise = max(place.values(), default=0) > max(by_depth.values(), default=0)  # a search comes back to old places
    place = by_depth if stepwise else place
    asked = wrap(str(council.get("question") or ""), 6.9, 6)
    top = MARGIN + 26.0
    tall_question = 34.0 + LINE * len(asked)
    tall = max(tall, tall_question)
    # beside the first box of a tree that is read from its top
    question = max(tall_question / 2, middles[nodes[0].index]) if tall > TALL and nodes else tall / 2
    count = max(place.values(), default=-1) + 1
    total = 2 * MARGIN + QUESTION + count * (GAP_X + BOX)

    def left(index: int) -> float:
        return MARGIN + QUESTION + GAP_X + place[index] * (BOX + GAP_X)

    edges, boxes, heads = [], [], []
    for node in nodes:
        colour = colours[str(node.thought.get("expert"))]
        origin = MARGIN + QUESTION if node.parent is None else left(node.parent) + BOX
        start = top + (question if node.parent is None else middles[node.parent])
        kind = f"l{colour}" + (" t-way" if node.index in way else "")
        kind += " t-faint" if node.thought.get("status") == "pruned" else ""
        edges.append(_edge(origin, start, left(node.index), top + middles[node.index], kind))
        y, height = top + middles[node.index], heights[node.index]
        passed = node.index in way
        boxes.append(_box(node, left(node.index), y, height, colour, node.index in chosen, passed))
    for column in range(count):
        rounds = {n.thought.get("round") for n in nodes if place[n.index] == column}
        x = MARGIN + QUESTION + GAP_X + column * (BOX + GAP_X)
        if stepwise:
            heads.append(_text(x, MARGIN + 8, f"Step {column + 1}", "t-soft"))
        elif len(rounds) == 1 and isinstance(one := rounds.pop(), int):
            heads.append(_text(x, MARGIN + 8, f"Round {one}", "t-soft"))

    y = top + question - tall_question / 2
    boxes.append(
        f'<rect class="t-box t-question" x="{MARGIN}" y="{y:.1f}" width="{QUESTION}" '
        f'height="{tall_question:.1f}" rx="4"/>' + _text(MARGIN + 12, y + 19, "Question", "t-soft")
    )
    boxes += [_text(MARGIN + 12, y + 39 + LINE * i, line, "t-bold") for i, line in enumerate(asked)]

    height = top + tall + MARGIN
    foot: list[str] = []
    if standalone:
        total = max(total, 640)
        foot, height = _foot(council, colours, height + 26, total)
    end = verdict(council.get("solved"))[0]
    label = f"Thought tree of {council.get('question')}: {end}, {len(nodes)} thoughts, {summary(council)}"
    style = f"<style>{resolve(STYLE, LIGHT)}</style>" if standalone else ""
    ground = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>' if standalone else ""
    size = f'width="{total:.0f}" height="{height:.0f}"'
    return clean(
        f'<svg class="tree" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:.0f} {height:.0f}" {size} '
        f'role="img" aria-label="{escape(label)}">{style}{ground}' + "".join(heads + edges + boxes + foot) + "</svg>"
    )


def _way(council: Mapping[str, Any], thoughts: Sequence[Thought]) -> tuple[list[Node], set[int], set[int]]:
    """The tree, the thoughts that give the answer, and all of their lines."""
    nodes = order(thoughts)
    chosen = answers(council, nodes)
    return nodes, chosen, {i for answer in chosen for i in path(nodes, answer)}


def _foot(council: Mapping[str, Any], colours: dict[str, str], y: float, total: float) -> tuple[list[str], float]:
    """What the page says beside the tree: each expert's end, the answer, the count.

    Returns (parts, height of the picture).
    """
    room = (total - 2 * MARGIN) / 14
    out = [f'<path d="M{MARGIN} {y - 26:.1f}H{total - MARGIN:.1f}" stroke="{LIGHT["rule"]}"/>']
    for expert in council.get("experts") or []:
        name = str(expert.get("name"))
        place = f'x="{MARGIN}" y="{y - 9:.1f}"'
        out.append(f'<rect class="e{colours[name]}" {place} width="10" height="10" rx="2"/>')
        line = wrap(f"{name}: {expert_words(expert)}", room - 2, 1)[0]
        out.append(_text(MARGIN + 18, y, line))
        y += LINE + 3
    y += 4
    for line in wrap("Answer: " + "; ".join(str(council.get("answer") or "none").split("\n")), room, 3):
        out.append(_text(MARGIN, y, line, "t-bold"))
        y += LINE + 2
    words, kind = verdict(council.get("solved"))
    out.append(_text(MARGIN, y, " · ".join(t for t in (words, summary(council)) if t), f"t-{kind}"))
    return out, y + MARGIN


def tree_list(council: Mapping[str, Any]) -> Markup:
    """The tree as nested lists with every text in full; a line without forks is not indented further."""
    nodes = order(council.get("thoughts") or [])
    chosen = answers(council, nodes)
    colours = expert_colours(council)
    siblings = {c: len(n.children) for n in nodes for c in n.children}
    out: list[str] = []
    depth = -1
    for node in nodes:
        thought = node.thought
        if node.depth > depth:
            single = depth >= 0 and siblings[node.index] == 1
            out.append(f'<ul class="{"line" if single else "fork"}">')
        else:
            out.append("</li></ul>" * (depth - node.depth) + "</li>")
        depth = node.depth
        name = str(thought.get("expert"))
        is_answer = node.index in chosen
        kind = "answer" if is_answer else str(thought.get("status") or "active")
        kind = kind if kind in ("answer", "left", "pruned", "final") else "active"
        facts = [f"round {number(thought.get('round'))}", score_text(thought.get("score"))]
        ended = status_words(thought, is_answer)
        out.append(
            f'<li data-thought="{escape(str(thought.get("id")))}">'
            f'<div class="thought b{colours[name]} is-{kind}">'
            f'<p class="who"><b class="n{colours[name]}">{escape(name)}</b> '
            f"<small>{escape(' · '.join(f for f in facts if f))}</small></p>"
            f'<p class="said" dir="auto">{escape(str(thought.get("text") or ""))}</p>'
        )
        out.append(f'<p class="end">{escape(ended)}</p></div>' if ended else "</div>")
    out.append("</li></ul>" * (depth + 1))
    return Markup("".join(out))

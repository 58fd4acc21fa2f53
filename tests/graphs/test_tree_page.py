"""The page of one council: what it shows, that it needs nothing else, and that a large tree does not overlap."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graphs.report import write_report
from graphs.report.tree import tree_svg
from graphs.report.tree_layout import centres, depths, order, raised
from graphs.report.tree_page import tree_page

EVIL = "</script><img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"
TALL_ENOUGH = 60


class Read(HTMLParser):
    """Tags with attributes, and the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> stands twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows:
            self.rows[-1] += data


def search(count: int = TALL_ENOUGH) -> dict[str, Any]:
    """A search of ``count`` thoughts, three to a place, the first two places of each depth continued; the answer is the
    end of the last of them. Rounds come back to old depths, as in MCTS."""
    thoughts: list[dict[str, Any]] = []
    for i in range(count):
        parent = None if i < 3 else thoughts[(i - 3) // 3]
        level = 0 if parent is None else parent["level"] + 1
        thoughts.append(
            {"id": f"t{i}", "parent": parent and parent["id"], "expert": "ABC"[i % 3], "round": 1 + i // 3}
            | {"text": f"step {i} of the search", "score": i / 10, "status": "active", "level": level}
            | {"visits": 1 + i % 4, "logprob": -1.5}
        )
    thoughts[-1]["status"] = "final"
    thoughts[-2] |= {"status": "pruned", "reason": "not among the best 2"}
    thoughts[-3] |= {"status": "left", "reason": "a dead end"}
    return {
        "question": "4 7 8 8", "answer": thoughts[-1]["text"], "solved": True, "rounds": 20, "experts": [],
        "thoughts": thoughts, "tokens": 1543, "seconds": 8.0, "notes": ["one note"],
    }  # fmt: skip


def lineage(council: dict[str, Any]) -> list[str]:
    parents = {t["id"]: t["parent"] for t in council["thoughts"]}
    found, at = [], council["thoughts"][-1]["id"]
    while at is not None:
        found.append(at)
        at = parents[at]
    return found[::-1]


def test_every_thought_of_a_search_is_in_picture_and_table():
    council = search()
    text = tree_page(council)
    page = Read(text)
    assert [tag for tag, _ in page.tags].count("tr") == 1 + TALL_ENOUGH
    for thought in council["thoughts"]:
        [row] = [row for row in page.rows if f"{thought['text']}\n" in row]
        assert f"{thought['score']:.2f}" in row and "−1.50" in row
    assert "not among the best 2" in page.text and "left: a dead end" in page.text
    assert "1,543 tokens" in page.text and "one note" in page.text and "✓ solved" in page.text
    ways = [a["data-thought"] for tag, a in page.tags if tag == "tr" and "way" in (a.get("class") or "").split()]
    assert ways == lineage(council)
    svg = ET.fromstring(re.search("<svg.*</svg>", text, re.S)[0])
    boxes = [g for g in svg.iter(f"{SVG}g") if g.get("data-thought")]
    assert len(boxes) == TALL_ENOUGH
    assert [g.get("data-thought") for g in boxes][: len(ways)] == ways  # a tall tree begins with the answer's line
    assert "score 0.40 · 1 visit" in "".join(svg.itertext())


def test_boxes_of_a_search_do_not_overlap_and_stay_in_the_picture():
    svg = ET.fromstring(tree_svg(search()))
    wide, tall = float(svg.get("width")), float(svg.get("height"))
    rects = [g.find(f"{SVG}rect") for g in svg.iter(f"{SVG}g") if g.get("data-thought")]
    rects += [r for r in svg.iter(f"{SVG}rect") if "t-question" in r.get("class", "")]
    places = [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in rects]
    assert len({x for x, *_ in places}) == 5  # the question, and a column for each of four depths, not for each round
    for i, (x, y, w, h) in enumerate(places):
        assert x >= 0 and y >= 0 and x + w <= wide and y + h <= tall
        for other in places[:i]:
            assert x != other[0] or y + h <= other[1] + 0.2 or other[1] + other[3] <= y + 0.2


parents = st.lists(st.none() | st.integers(0, 11), max_size=12)


@given(parents, st.lists(st.integers(20, 90), min_size=12, max_size=12))
def test_a_tree_read_from_its_top_keeps_its_boxes_apart(above, sizes):
    nodes = order([{"id": i, "parent": parent} for i, parent in enumerate(above)])
    heights = {n.index: float(sizes[n.index]) for n in nodes}
    middles, tall = centres(nodes, heights, 5)
    up, place = raised(nodes, heights, middles), depths(nodes)
    for a in nodes:
        assert heights[a.index] / 2 - 1e-9 <= up[a.index] <= max(middles[a.index], heights[a.index] / 2) + 1e-9
        assert up[a.index] + heights[a.index] / 2 <= tall + 1e-9
        for b in nodes:
            if a.index < b.index and place[a.index] == place[b.index]:
                assert abs(up[a.index] - up[b.index]) >= (heights[a.index] + heights[b.index]) / 2 - 1e-9


def test_everything_is_escaped_and_nothing_is_loaded():
    council = search(6)
    council |= {"question": EVIL, "answer": EVIL, "notes": [EVIL], "solved": None}
    council["experts"] = [{"name": EVIL, "status": EVIL, "reason": EVIL}]
    council["thoughts"][4] |= {"text": EVIL, "reason": EVIL, "id": f'"{EVIL}', "expert": EVIL, "status": "left"}
    text = tree_page(council)
    page = Read(text)
    assert EVIL not in text and EVIL in page.text
    assert not {"script", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    rest = text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in rest and "https:" not in rest and "@import" not in rest and "url(" not in rest
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes), tag


def test_a_council_in_which_nobody_wrote():
    council = {"question": "q", "answer": None, "solved": None, "experts": [], "thoughts": [], "notes": []}
    page = Read(tree_page(council))
    assert "Nobody wrote a step." in page.text and "No answer." in page.text
    assert "table" not in [tag for tag, _ in page.tags]


def test_the_report_writes_a_page_and_a_picture_beside_each_council(tmp_path: Path):
    folder = tmp_path / "trees"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(search(9)))
    (folder / "broken.json").write_text('{"thoughts": [1]}')
    write_report(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["a.html", "a.json", "a.svg", "broken.json"]
    assert (folder / "a.html").read_text() == tree_page(search(9))
    ET.fromstring((folder / "a.svg").read_text())

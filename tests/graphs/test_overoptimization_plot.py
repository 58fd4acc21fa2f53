"""The plot of scores against KL: where its marks stand, what it says in words, and that odd files cannot break it."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from graphs.report import write_report
from graphs.report.curves import LEFT
from graphs.report.overoptimization import EDGE, PANEL, TOP, kl_ticks, sampled_points, score_against_kl

SVG = "{http://www.w3.org/2000/svg}"
KL = [0.0, 1.0, 4.0, 9.0, 16.0]  # square roots 0 to 4
SCORES = [0.0, 1.0, 2.0, 3.0, 4.0]
GOLD = [0.0, 2.0, 1.0, -1.0, -2.0]


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    names = {"kl": "objective/kl", "scores": "objective/scores", "gold": "objective/gold"}
    return [
        {"stage": "ppo", "step": step} | {names[key]: values[step - 1] for key, values in columns.items()}
        for step in range(1, len(columns["kl"]) + 1)
    ]


def best_of_n(*ns: int) -> dict[str, Any]:
    def about(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.5, "high": value + 0.5}

    points = [{"n": n, "kl": math.log(n) - (n - 1) / n, "reward": about(n / 8), "gold": about(n / 16)} for n in ns]
    return {"points": points}


def drawn(metrics: list[dict[str, Any]], sampled: dict[str, Any]) -> ET.Element:
    return ET.fromstring(score_against_kl(metrics, sampled))


def test_marks_stand_at_the_square_root_of_their_kl() -> None:
    svg = drawn(rows(kl=KL, scores=SCORES, gold=GOLD), best_of_n(1, 4))
    dots = [d for d in svg.iter(f"{SVG}circle") if d.find(f"{SVG}title") is not None]
    assert [d.findtext(f"{SVG}title") for d in dots[:2]] == [
        "iteration 1: KL 0.00, score 0.00",
        "iteration 2: KL 1.00, score 1.00",
    ]
    left, right = LEFT + 6, EDGE - 6
    wanted = [left + (right - left) * root / 4 for root in range(5)]
    assert [float(d.get("cx")) for d in dots] == pytest.approx(wanted * 2, abs=0.06)
    upper, lower = [[float(d.get("cy")) for d in part] for part in (dots[:5], dots[5:])]
    assert upper == sorted(upper, reverse=True) and min(upper) >= TOP and max(upper) <= TOP + PANEL
    assert min(lower) == lower[1] and max(lower) == lower[4] and min(lower) > TOP + PANEL  # gold is highest at KL 1
    # n = 4 in the upper panel; the first diamond is the legend's
    _, _, n4, *_ = [p.get("d") for p in svg.iter(f"{SVG}path") if p.get("d", "").endswith("z")]
    x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)l", n4).groups())
    assert x + 5 == pytest.approx(left + (right - left) * math.sqrt(math.log(4) - 0.75) / 4, abs=0.1)
    height = {value: float(d.get("cy")) for value, d in zip(SCORES, dots, strict=False)}
    assert y == pytest.approx((height[0.0] + height[1.0]) / 2, abs=0.1)  # its mean score is 0.5


def test_words_for_those_who_do_not_see_it() -> None:
    label = drawn(rows(kl=KL, scores=SCORES, gold=GOLD), best_of_n(1, 4)).get("aria-label")
    assert label == (
        "Score and gold score against KL (KL to the SFT adapter, nats per response, square-root scale): "
        "score of PPO from 0.00 at KL 0.00 to 4.00 at KL 16.0, highest 4.00 at KL 16.0; "
        "score of best of n: n = 1 0.125 at KL 0.00, n = 4 0.500 at KL 0.636; "
        "gold score of PPO from 0.00 at KL 0.00 to −2.00 at KL 16.0, highest 2.00 at KL 1.00; "
        "gold score of best of n: n = 1 0.0625 at KL 0.00, n = 4 0.250 at KL 0.636"
    )


def test_what_a_run_lacks_is_left_out() -> None:
    svg = drawn(rows(kl=KL, scores=SCORES), {})
    assert svg.get("aria-label").startswith("Score against KL (") and "best of n" not in "".join(svg.itertext())
    assert "gold" not in "".join(svg.itertext())
    assert score_against_kl(rows(kl=[1.0], scores=[1.0]), {}) == ""  # one point is no curve
    assert score_against_kl([{"stage": "sft", "step": 1, "objective/kl": 1.0, "objective/scores": 1.0}] * 2, {}) == ""
    assert score_against_kl(rows(kl=[math.nan, None, "x"], scores=SCORES[:3]), {}) == ""
    # a negative estimate stands at 0; iterations that are not numbers are left out, and the others keep their number
    svg = drawn(rows(kl=[-0.01, math.nan, 1.0], scores=[0.0, 1.0, 2.0]), {})
    titles = [t.text for t in svg.iter(f"{SVG}title")]
    assert titles == ["iteration 1: KL 0.00, score 0.00", "iteration 3: KL 1.00, score 2.00"]
    # a step that came again, after a kill, counts once
    again = drawn([*rows(kl=KL, scores=SCORES), *rows(kl=KL, scores=[v + 1 for v in SCORES])], {})
    assert [t.text[-10:] for t in again.iter(f"{SVG}title")] == [f"score {v + 1:.2f}" for v in SCORES]


def test_all_at_one_place_is_drawn() -> None:
    assert len(list(drawn(rows(kl=[0.0, 0.0], scores=[1.0, 1.0]), {}).iter(f"{SVG}title"))) == 2


@pytest.mark.parametrize(
    "points",
    [None, "x", [None, 3, []], [{"n": "2", "kl": 1}], [{"n": 2, "kl": math.nan, "reward": {"value": 1}}],
     [{"n": 2, "kl": 0.19, "reward": 1.0}], [{"n": 2, "kl": 0.19, "reward": {"value": "<b>"}}]],
)  # fmt: skip
def test_an_odd_best_of_n_is_not_drawn(points: Any) -> None:
    assert sampled_points({"points": points}, "reward") == []


def test_a_point_without_bounds_is_its_own_interval() -> None:
    [point] = sampled_points({"points": [{"n": 2, "kl": 0.2, "gold": {"value": 1.5, "low": None}}]}, "gold")
    assert (point.low, point.value, point.high) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("highest", [1e-3, 0.3, 2.0, 17.0, 480.0, 1e6])
def test_ticks_of_the_kl_axis_are_round_and_apart(highest: float) -> None:
    from graphs.report.curves import Scale

    scale = Scale(0.0, math.sqrt(highest), LEFT, EDGE)
    marks = kl_ticks(highest, scale)
    assert marks[0] == 0 and marks[-1] <= highest and len(marks) >= 4
    places = [scale(math.sqrt(value)) for value in marks]
    assert all(b - a >= 34 for a, b in zip(places, places[1:], strict=False))
    assert all(f"{value:.0e}"[0] in "125" for value in marks[1:])


def test_the_page_of_a_run_has_it(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "done", "stages": {"ppo": {"state": "done"}}}))
    lines = "".join(json.dumps(row) + "\n" for row in rows(kl=KL, scores=SCORES, gold=GOLD))
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "best_of_n.json").write_text(json.dumps(best_of_n(1, 2, 4)))
    page = write_report(tmp_path).read_text()
    assert "Score and gold score against KL" in page and "n = 4 0.500 at KL 0.636" in page
    (tmp_path / "best_of_n.json").write_text("[1]")
    page = write_report(tmp_path).read_text()
    assert "best_of_n.json does not hold a JSON object." in page and "n = 4" not in page
    assert "Score and gold score against KL" in page

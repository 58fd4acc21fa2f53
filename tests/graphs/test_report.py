"""The report: what it holds, that it needs nothing else, and where its lines and boxes stand."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from explain.pair import explain_tables
from explain.result import to_json
from explain.table import RewardTable
from explain.units import segment
from graphs.report import write_report
from graphs.report.curves import HEIGHT, LEFT, TOP, Series, line_chart, spread_labels, ticks
from graphs.report.formats import duration, interval, number, percent, wrap
from graphs.report.intervals import AXIS_LEFT, AXIS_RIGHT, Panel, Row, forest, reading
from graphs.report.palette import DARK, LIGHT, SERIES
from graphs.report.stages import column
from graphs.report.tree import tree_list, tree_svg
from graphs.report.tree_layout import answers, centres, columns, order

EVIL = "</script><img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "link", "br", "hr", "img", "col", "input"}


def between(value: float, low: float, high: float, method: str = "bootstrap over prompts") -> dict:
    return {"value": value, "low": low, "high": high, "n": 64, "level": 0.95, "method": method}


SOLVED = {
    "question": "4 7 8 8",
    "answer": "8 / 8 = 1 (left: 1 4 7)\n7 - 1 = 6 (left: 4 6)\n4 * 6 = 24 (left: 24)",
    "solved": True,
    "rounds": 3,
    "experts": [
        {"name": "Ada", "status": "finished", "reason": "reached 24"},
        {"name": "Ben", "status": "left", "reason": "3 and 60 cannot give 24"},
        {"name": "Cleo", "status": "left", "reason": "score -1.31 below -1.00"},
    ],
    "thoughts": [
        {"id": "a1", "parent": None, "expert": "Ada", "round": 1, "text": "8 / 8 = 1 (left: 1 4 7)",
         "score": 0.82, "status": "active"},
        {"id": "b1", "parent": None, "expert": "Ben", "round": 1, "text": "4 + 8 = 12 (left: 7 8 12)",
         "score": 0.11, "status": "active"},
        {"id": "c1", "parent": None, "expert": "Cleo", "round": 1, "text": "8 * 8 = 64 (left: 4 7 64)",
         "score": -0.64, "status": "active"},
        {"id": "a2", "parent": "a1", "expert": "Ada", "round": 2, "text": "7 - 1 = 6 (left: 4 6)",
         "score": 1.07, "status": "active"},
        {"id": "b2", "parent": "a1", "expert": "Ben", "round": 2, "text": "4 - 1 = 3 (left: 3 7)",
         "score": -0.2, "status": "left", "reason": "3 and 7 cannot give 24"},
        {"id": "c2", "parent": "c1", "expert": "Cleo", "round": 2, "text": "64 - 4 = 60 (left: 7 60)",
         "score": -1.31, "status": "pruned", "reason": "score -1.31 below -1.00"},
        {"id": "a3", "parent": "a2", "expert": "Ada", "round": 3, "text": "4 * 6 = 24 (left: 24)",
         "score": 1.66, "status": "final"},
    ],
    "tokens": 214,
    "seconds": 12.4,
    "notes": [],
}  # fmt: skip
UNSOLVED = {
    "question": "1 5 9 11",
    "answer": None,
    "solved": False,
    "rounds": 1,
    "experts": [
        {"name": "Ada", "status": "left", "reason": "too large"},
        {"name": "Ben", "status": "crashed", "reason": "no step that the grammar allows"},
    ],
    "thoughts": [
        {"id": 0, "parent": None, "expert": "Ada", "round": 1, "text": "9 * 11 = 99 (left: 1 5 99)",
         "score": None, "status": "left", "reason": "too large"},
    ],
    "tokens": 61,
    "seconds": 3.0,
    "notes": ["Leaving by score is off: with it, accuracy on the validation split was lower."],
}  # fmt: skip


def an_explanation() -> dict:
    """A pair of two-step lines, with rewards written by hand."""
    prompt = [{"role": "user", "content": f"Make 24 of 4 7 8 8 {EVIL}"}]
    chosen = RewardTable(prompt, segment("8 / 8 = 1\n7 - 1 = 6\n4 * 6 = 24"),
                         np.array([1.5, 0.9, 0.7, 0.1, 1.1, 0.4, 0.2, -0.4]), "toy")  # fmt: skip
    rejected = RewardTable(prompt, segment("8 * 8 = 64\n64 - 4 = 60"), np.array([-1.3, -0.6, -0.7, 0.0]), "toy")
    return to_json(explain_tables(chosen, rejected, beam=False))


def metrics() -> list[dict]:
    rows = []
    for step in range(1, 61):
        wobble = 0.06 * math.sin(2.3 * step)
        rows.append({"stage": "sft", "step": step, "total": 60, "loss": 0.35 + 1.9 * math.exp(-step / 12) + wobble})
    for step in range(1, 41):
        share = 0.5 + 0.35 * (1 - math.exp(-step / 10)) + 0.1 * math.sin(3.1 * step)
        row = {"loss": 1.1 - share / 2, "accuracy": share, "margin": 2 * share - 0.9}
        rows.append({"stage": "reward", "step": step, "total": 40, **row})
    for step in range(1, 9):
        row = {
            "objective/kl": 0.02 * step**1.5,
            "objective/scores": -0.8 + 0.11 * step,
            "eos_rate": 0.9 + step / 100,
        }
        row["objective/rlhf_reward"] = row["objective/scores"] - 0.2 * row["objective/kl"]
        row |= {"objective/entropy": 21.0 - step / 2, "policy/approxkl_avg": 0.004 + 0.001 * (step % 3)}
        row |= {"policy/clipfrac_avg": 0.03 + 0.01 * (step % 4), "loss/policy_avg": -0.01 * (step % 5)}
        row |= {
            "loss/value_avg": 0.4 / step,
            "val/ratio": 1 + 0.004 * (-1) ** step,
            "solved": 0.05 + 0.01 * step,
        }
        row["val/explained_variance"] = math.nan if step == 3 else 0.08 * step - 0.1
        rows.append({"stage": "ppo", "step": step, "total": 8, **row})
    return rows


STATUS = {
    "state": "done", "stage": "evaluate", "message": "", "updated": "2026-11-23T10:12:44+00:00",
    "stages": {
        "data": {"state": "done", "step": 1, "total": 1, "seconds": 0.8, "results": {
            "counts": {"sft": {"train": 1800, "validation": 120}, "pairs": {"train": 1200, "validation": 200},
                       "prompts": {"train": 640, "validation": 64}},
            "notes": ["100 test puzzles are held out by multiset."]}},
        "sft": {"state": "done", "step": 60, "total": 60, "seconds": 214.0,
                "results": {"validation_loss": 0.412, "perplexity": 1.51, "tokens": 61440}},
        "reward": {"state": "done", "step": 40, "total": 40, "seconds": 131.0, "results": {
            "pair_accuracy": between(0.805, 0.744, 0.855, "Wilson"),
            "auc": between(0.871, 0.819, 0.914, "DeLong"),
            "length_correlation": 0.08}},
        "ppo": {"state": "done", "step": 8, "total": 8, "seconds": 388.0,
                "results": {"iterations": 8, "solved": 0.13, "eos_rate": 0.98, "objective/kl": 0.452, 
                            "objective/scores": 0.08, "val/ratio": 1.004}},
        "evaluate": {"state": "done", "step": 128, "total": 128, "seconds": 95.0, "results": {
            "split": "validation", "n": 64,
            "reward": {"sft": between(-0.62, -0.89, -0.35), "policy": between(-0.11, -0.38, 0.15),
                       "difference": between(0.51, 0.27, 0.75, "paired bootstrap over prompts")},
            "solved": {"sft": between(0.078, 0.034, 0.17, "Wilson"),
                       "policy": between(0.109, 0.054, 0.209, "Wilson"),
                       "difference": between(0.031, -0.047, 0.109, "paired bootstrap over prompts")},
            "kl": between(0.45, 0.38, 0.52),
            "words": ["PPO raised the held-out reward by 0.51 (95% interval 0.27 to 0.75).",
                      "A change in the share of solved puzzles is not shown: +3.1 points (−4.7 to 10.9).",
                      "The policy moved 0.45 nats per response away from the SFT adapter."]}},
    },
}  # fmt: skip
ENVIRONMENT = {
    "junto": "0.1.0", "python": "3.11.2", "platform": "Linux-6.1 x86_64", "processor": "x86_64", "cores": 2,
    "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0", "trl": "1.16.0"},
    "backbone": {"name": "SmolLM2-135M-Instruct", "sha256": "9f" * 32, "quantization": "nf4",
                 "compute_dtype": "bfloat16"},
}  # fmt: skip
RECIPE = {
    "name": "quickstart",
    "seed": 1,
    "task": "graphs.tasks.game24",
    "data": {"lines": 1800},
    "backbone": {"model": "embedded", "quantization": "nf4"},
    "ppo": {"iterations": 8, "kl_coef": 0.05},
}


def samples() -> list[dict]:
    rows = []
    for i in range(8):
        for arm, reward in (("sft", -0.7 + i / 10), ("policy", -0.1 + i / 10)):
            text = f"{i + 2} * 4 = {4 * i + 8} (left: 3 8 {4 * i + 8})\nLEAVE: too large"
            row = {"arm": arm, "id": f"v{i}", "question": f"{i + 2} 3 4 8", "text": text}
            rows.append({"stage": "evaluate", **row, "reward": reward, "solved": arm == "policy" and i == 3})
    return rows


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, allow_nan=True))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def full_run(run: Path) -> Path:
    """A finished run, as its stages write it."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "status.json", STATUS)
    write_json(run / "environment.json", ENVIRONMENT)
    (run / "config.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    write_lines(run / "metrics.jsonl", metrics())
    write_lines(run / "samples.jsonl", samples())
    write_json(run / "trees" / "4-7-8-8.json", SOLVED)
    write_json(run / "trees" / "1-5-9-11.json", UNSOLVED)
    write_json(run / "explanations" / "pair-4-7-8-8.json", an_explanation())
    return run


class Page(HTMLParser):
    """Tags must close in order; collects tags with attributes, and the text under each heading."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> stands twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(run: Path) -> tuple[str, Page]:
    text = write_report(run).read_text(encoding="utf-8")
    return text, Page(text)


def test_full_run_shows_every_part(tmp_path):
    text, page = report(full_run(tmp_path / "quickstart"))
    for sentence in STATUS["stages"]["evaluate"]["results"]["words"]:
        assert sentence in page.text
    for shown in ("7.8%", "10.9%", "+3.1 pp", "−4.7 to +10.9 pp", "0.510", "0.270 to 0.750", "80.5%"):
        assert shown in page.text, shown
    assert "The interval lies above zero: a rise." in page.text
    assert "The interval contains zero: a change is not shown." in page.text
    assert "3 and 7 cannot give 24" in page.text
    assert "torch 2.13.0" in page.text and "kl_coef: 0.05" in page.text and "6 more" not in page.text
    assert "left out of the curves: 1 value." in page.text  # explained variance of iteration 3
    assert text.count('class="tree"') == 2 and text.count('class="ex-text"') == 2
    charts = [a["aria-label"] for a in page.all("svg") if a.get("class") == "chart"]
    assert len(charts) == 1 + 3 + 11
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= set(ids)


def test_headings_descend_one_level_at_a_time(tmp_path):
    _, page = report(full_run(tmp_path / "quickstart"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_page_needs_no_network_and_no_script(tmp_path):
    text, page = report(full_run(tmp_path / "quickstart"))
    rest = text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in rest and "https:" not in rest and "@import" not in rest and "url(" not in rest
    assert not {"script", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes), (tag, attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)


def test_every_text_from_outside_is_escaped(tmp_path):
    run = full_run(tmp_path / "evil")
    tree = json.loads(json.dumps(SOLVED))
    tree |= {"question": EVIL, "answer": EVIL, "notes": [EVIL]}
    tree["experts"] = [{"name": EVIL, "status": EVIL, "reason": EVIL}]
    tree["thoughts"][4] |= {"text": EVIL, "reason": EVIL, "id": f'"{EVIL}', "expert": EVIL}
    write_json(run / "trees" / "4-7-8-8.json", tree)
    row = {
        "stage": "evaluate",
        "reward": math.nan,
        "solved": None,
        "id": EVIL,
        "question": EVIL,
        "text": EVIL,
    }
    write_lines(run / "samples.jsonl", [row | {"arm": arm} for arm in ("sft", EVIL)])
    recipe = yaml.safe_dump(RECIPE | {"name": EVIL, "task": EVIL})
    (run / "config.yaml").write_text(recipe)
    status = json.loads(json.dumps(STATUS))
    status |= {"state": EVIL, "stage": EVIL, "message": EVIL, "updated": EVIL}
    status["stages"][EVIL] = {"state": EVIL, "results": {EVIL: EVIL, "notes": [EVIL], "counts": {EVIL: {}}}}
    status["stages"]["evaluate"]["results"] |= {"words": [EVIL], "split": EVIL, "kl": between(1, 0, 2, EVIL)}
    status["stages"]["evaluate"]["results"]["reward"]["sft"]["method"] = EVIL
    write_json(run / "status.json", status)
    write_json(run / "environment.json", {EVIL: EVIL, "packages": {EVIL: EVIL}, "backbone": {"name": EVIL}})
    write_json(run / "explanations" / f"{EVIL.replace('/', '')}.json", an_explanation())
    text, page = report(run)
    assert EVIL not in text and "<img" not in text and "<script" not in text
    assert page.text.count(EVIL) > 25
    svg = ET.fromstring(tree_svg(tree))
    assert all(element.tag != "img" and "onerror" not in element.attrib for element in svg.iter())


def test_control_characters_and_surrogates_do_not_break_the_page(tmp_path):
    run = full_run(tmp_path / "odd")
    tree = SOLVED | {"question": "a\x00b\x1b[31m\ud800", "answer": "\udfff"}
    (run / "trees" / "4-7-8-8.json").write_text(json.dumps(tree))
    text, _ = report(run)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
    assert "a\ufffdb\ufffd[31m\ufffd" in text
    ET.fromstring(tree_svg(tree).encode())


def test_run_that_only_finished_sft(tmp_path):
    run = tmp_path / "young"
    run.mkdir()
    stages = {"sft": STATUS["stages"]["sft"], "reward": {"state": "running", "step": 3, "total": 40}}
    write_json(run / "status.json", {"state": "interrupted", "stage": "reward", "stages": stages})
    lines = "".join(json.dumps(row) + "\n" for row in metrics() if row["stage"] == "sft")
    (run / "metrics.jsonl").write_text(lines + '{"stage": "rew')  # a killed process left half a line
    text, page = report(run)
    assert "This run has no held-out evaluation yet." in page.text
    assert "interrupted in stage reward" in page.text and "3 of 40" in page.text
    assert "metrics.jsonl: 1 line could not be read." in page.text
    assert "There is no thought tree of a solved question in this run." in page.text
    assert "There is no thought tree of an unsolved question in this run." in page.text
    assert "No reward has been explained in this run yet." in page.text
    assert len([a for a in page.all("svg") if a.get("class") == "chart"]) == 1 and "–" in page.text


def test_calibration_regression_and_notes_of_the_reward_model(tmp_path):
    run = full_run(tmp_path / "quickstart")
    status = json.loads(json.dumps(STATUS))
    reward = status["stages"]["reward"]
    reward["notes"] = [f"2 rows were cut {EVIL}"]
    bins = [{"confidence": 0.55, "accuracy": 0.5, "n": 9}, {"confidence": 0.9, "accuracy": 0.96, "n": 31}]
    reward["results"] |= {"temperature": 1.75, "ece": 0.0575, "brier": between(0.151, 0.11, 0.2), "reliability": bins}
    reward["results"] |= {"pearson": between(0.71, 0.66, 0.75), "mae": between(0.83, 0.79, 0.88)}
    write_json(run / "status.json", status)
    _, page = report(run)
    for shown in ("1.75", "5.8%", "0.151", "0.110 to 0.200", "0.710", "0.660 to 0.750", "2 rows were cut"):
        assert shown in page.text, shown
    [chart] = [svg for svg in page.all("svg") if svg.get("aria-label", "").startswith("Reliability")]
    assert "observed from 50.0 at confidence, % 55.0 to 96.0 at confidence, % 90.0" in chart["aria-label"]


def test_empty_run_directory_and_no_run_directory(tmp_path):
    _, page = report(tmp_path)
    assert "No stage has begun." in page.text
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("status.json", "[1, 2]"),
        ("status.json", "{"),
        ("environment.json", "null"),
        ("config.yaml", "a: [1"),
        ("trees/x.json", '{"thoughts": [1]}'),
        ("trees/x.json", '{"thoughts": null, "experts": 3}'),
        ("explanations/x.json", '{"schema_version": 99}'),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path, name, content):
    run = full_run(tmp_path / "run")
    (run / name).write_text(content)
    _, page = report(run)
    warning = page.text.split("Parts of the run directory could not be read:")[1].split("Stages")[0]
    assert name in warning
    assert "Thought trees" in page.text


@pytest.mark.parametrize(
    "stages",
    [
        {"evaluate": {"results": {"reward": None, "solved": None, "kl": None, "words": None, "n": None}}},
        {"evaluate": {"results": {"reward": {"sft": between(math.nan, math.nan, math.nan)}}}},
        {"evaluate": {"results": {"reward": {"difference": between(0.0, 0.0, 0.0)}}}},
        {"evaluate": {"results": "nothing"}, "sft": None, "ppo": {"results": {"objective/kl": None}}},
        {"reward": {"notes": "text", "results": {"reliability": [None, {"confidence": "x"}, {}], "ece": None}}},
        {"reward": {"notes": [None], "results": {"reliability": {"a": 1}, "pearson": None}}},
        {"data": {"results": {"counts": {"sft": None, "pairs": {"train": 3}}, "notes": "text"}}},
    ],
)
def test_missing_and_undefined_results_are_dashes(tmp_path, stages):
    write_json(tmp_path / "status.json", {"state": "failed", "stages": stages})
    text, page = report(tmp_path)
    assert "nan" not in page.text and "None" not in page.text
    assert "nan" not in re.sub("<style>.*</style>", "", text, flags=re.S)


def test_unsolved_only_says_so_and_task_without_checker_shows_both(tmp_path):
    write_json(tmp_path / "trees" / "a.json", UNSOLVED)
    _, page = report(tmp_path)
    assert "There is no thought tree of a solved question in this run." in page.text
    assert "of an unsolved question" not in page.text
    for name in "abc":
        write_json(tmp_path / "trees" / f"{name}.json", UNSOLVED | {"solved": None, "question": f"why {name}"})
    _, page = report(tmp_path)
    assert "why a" in page.text and "why b" in page.text and "why c" not in page.text
    assert "There is no" not in page.text.split("Samples")[1] and "1 more in the folder trees" in page.text


# --- curves


def test_a_point_stands_where_its_value_says():
    # y ticks 0, 1, 2, 3, 4, so 4 is at TOP and 0 at HEIGHT - 36; x runs from LEFT + 6 to the right margin,
    # which leaves 14 pixels and 6.7 for each of the three characters of the label "1.0".
    svg = ET.fromstring(line_chart("t", [Series("s", [(1, 4), (2, 3), (3, 0), (5, 1)])]))
    dots = [(float(d.get("cx")), float(d.get("cy"))) for d in svg.iter(f"{SVG}circle")]
    right, base = 420 - 14 - 3 * 6.7, 236 - 36
    middle = LEFT + 6 + (right - LEFT - 6) / 2
    assert dots == [
        (66.0, 50.0),
        pytest.approx((66 + (right - 66) / 4, 50 + 150 / 4), abs=0.051),
        pytest.approx((middle, base), abs=0.051),
        pytest.approx((right, 162.5), abs=0.051),
    ]
    assert (HEIGHT, TOP, LEFT) == (236, 50, 60)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 4.0, [0, 1, 2, 3, 4]),
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 0.61, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (-3.0, 12.0, [-5, 0, 5, 10, 15]),
        (2.0, 2.0, [1.0, 1.5, 2.0, 2.5, 3.0]),
        (0.0, 0.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_enclose_the_data_and_are_few(low, size):
    marks = ticks(low, low + size)
    step = marks[1] - marks[0] if len(marks) > 1 else 0
    assert marks[0] <= low + 1e-6 * step + 1e-3 * size and marks[-1] >= low + size - 1e-3 * size
    assert 2 <= len(marks) <= 6


def test_gaps_labels_and_repeated_steps():
    assert line_chart("t", [Series("s", [(1, math.nan)])]) == ""
    svg = ET.fromstring(line_chart("t", [Series("s", [(1, 1.0), (2, math.nan), (3, 2.0), (4, 3.0)])]))
    assert len([p for p in svg.iter(f"{SVG}path") if p.get("class") == "g-line"]) == 2
    assert spread_labels([100, 101, 40], 15, 0, 110) == [95, 110, 40]
    rows = [{"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3}]
    assert column(rows, "loss", 100.0).points == [(1.0, 300.0), (2.0, 200.0)]


def test_long_series_are_thinned_and_keep_their_mean():
    points = [(float(i), float(i % 2)) for i in range(8000)]
    svg = ET.fromstring(line_chart("t", [Series("s", points)]))
    (line,) = [p for p in svg.iter(f"{SVG}path") if p.get("class") == "g-line"]
    drawn = [tuple(map(float, pair.split())) for pair in line.get("d")[1:].split("L")]
    assert len(drawn) == 400  # runs of 20, half zeros and half ones
    assert {y for _, y in drawn} == {(TOP + HEIGHT - 36) / 2}


# --- intervals


def test_forest_bar_spans_low_to_high_and_reading_follows_zero():
    difference = between(1.0, -1.0, 3.0)
    svg = ET.fromstring(forest("t", [Panel("u", [Row("d", difference, "diamond")], zero=True)]))
    (bar,) = [p.get("d") for p in svg.iter(f"{SVG}path") if p.get("class") == "f-bar"]
    start, end = map(float, re.match(r"M([\d.]+) [\d.]+H([\d.]+)", bar).groups())
    assert (start, end) == (AXIS_LEFT, AXIS_RIGHT)  # ticks -1 0 1 2 3
    (mark,) = [p.get("d") for p in svg.iter(f"{SVG}path") if p.get("class") == "f-mark"]
    assert float(mark[1:].split()[0]) == (AXIS_LEFT + AXIS_RIGHT) / 2 - 6
    assert "contains zero" in reading(difference)
    assert "a rise" in reading(between(2, 0.1, 3)) and "a fall" in reading(between(-2, -3, -0.1))
    assert "contains zero" in reading(between(0, 0, 1))  # a bound at zero shows no change
    assert "nothing can be said" in reading(between(1, math.nan, 2)) and reading(None) == ""


def test_numbers_as_a_reader_sees_them():
    values = [None, math.nan, math.inf, True, 61440, 0.0, 0.4116, -12.345, 1234.5, -0.00001, 10**400, "x"]
    assert [number(v) for v in values] == [
        "–", "–", "–", "yes", "61,440", "0.00", "0.412", "−12.3", "1,234", "−1.00e−5", "–", "–",
    ]  # fmt: skip
    assert interval(between(-0.012, -0.4, 0.38)) == ("−0.012", "−0.400 to 0.380")
    assert interval(None) == ("–", "–") and interval({"value": 1.5, "low": None, "high": 2.0})[1] == "–"
    assert (percent(0.0781), percent(math.nan)) == ("7.8%", "–")
    assert [duration(s) for s in (8.44, 59.97, 185, 7620, None)] == [
        "8.4 s", "1 min 00 s", "3 min 05 s", "2 h 07 min", "–",
    ]  # fmt: skip
    # "aa aa" is 4 * 0.63 + 0.33 = 2.85 ems wide, and with an ellipsis 3.85.
    assert wrap("aa aa aa aa", 2.9, 2) == ["aa aa", "aa aa"] and wrap("aa aa aa aa", 2.8, 4) == ["aa"] * 4
    assert wrap("aa aa aa aa a", 2.9, 2) == ["aa aa", "aa…"]
    assert wrap("aaaaaaaa", 1.9, 5) == ["aaa", "aaa", "aa"] and wrap("日本語", 2, 2) == ["日本", "語"]


# --- the thought tree


def test_layout_by_hand():
    # Root 0 (20 high) has children 1 and 2 (40 high each); root 3 (30 high) stands below, gaps of 10.
    thoughts = [{"id": "r"}, {"id": "x", "parent": "r"}, {"id": "y", "parent": "r"}, {"id": "s"}]
    nodes = order(thoughts)
    assert [(n.index, n.parent, n.depth) for n in nodes] == [(0, None, 0), (1, 0, 1), (2, 0, 1), (3, None, 0)]
    middles, tall = centres(nodes, {0: 20, 1: 40, 2: 40, 3: 30}, 10)
    assert middles == {0: 45, 1: 20, 2: 70, 3: 115} and tall == 130
    assert columns(nodes) == {0: 0, 1: 1, 2: 1, 3: 0}
    late = order([{"id": 1, "round": 2}, {"id": 2, "parent": 1, "round": 5}, {"id": 3, "round": 3}])
    assert columns(late) == {0: 0, 1: 2, 2: 1}  # rounds 2, 3 and 5 are the three columns


def test_the_answer_is_the_final_thought_whose_line_it_is():
    nodes = order(SOLVED["thoughts"])
    assert answers(SOLVED, nodes) == {6}
    assert answers(SOLVED | {"answer": None}, nodes) == set()
    assert answers(SOLVED | {"answer": "4 * 6 = 24 (left: 24)"}, nodes) == {6}
    two = [{"id": 1, "text": "it is 5", "status": "final"}, {"id": 2, "text": "it is 7", "status": "final"}]
    assert answers({"answer": "7"}, order(two)) == {1}
    assert answers({"answer": "9"}, order(two)) == set()


def test_svg_marks_leavers_with_their_reason_and_the_answer():
    svg = ET.fromstring(tree_svg(SOLVED))
    boxes = {g.get("data-thought"): "".join(g.itertext()) for g in svg.iter(f"{SVG}g") if g.get("data-thought")}
    assert list(boxes) == ["a1", "a2", "a3", "b2", "b1", "c1", "c2"]  # each once, parents before children
    assert "✕ left: 3 and 7 cannot give 24" in boxes["b2"]
    assert "✓ answer" in boxes["a3"] and "score 1.66" in boxes["a3"] and "score −1.31" in boxes["c2"]
    assert [b for b, text in boxes.items() if "✓" in text] == ["a3"]
    text = "".join(svg.itertext())
    assert "var(--" not in text and "4 7 8 8" in text and "Round 3" in text and "✓ solved · 3 rounds" in text


def test_list_nests_children_in_their_parent():
    page = ET.fromstring(f"<div>{tree_list(SOLVED)}</div>")
    parents = {}
    for item in page.iter("li"):
        for child in item.findall("ul/li"):
            parents[child.get("data-thought")] = item.get("data-thought")
    assert parents == {"a2": "a1", "b2": "a1", "c2": "c1", "a3": "a2"}
    assert [i.get("data-thought") for i in page.findall("ul/li")] == ["a1", "b1", "c1"]


names = st.sampled_from(["Ada", "Ben", "<b>", "", "日本語の名前がとても長い専門家"])
thought = st.fixed_dictionaries(
    {
        "id": st.integers(0, 12),
        "parent": st.none() | st.integers(0, 12),
        "expert": names,
        "text": st.text(max_size=90),
    },
    optional={
        "round": st.integers(0, 9) | st.none(),
        "score": st.none() | st.floats(),
        "status": st.sampled_from(["active", "left", "final", "pruned", "other"]),
        "reason": st.none() | st.text(max_size=60),
    },
)


@given(st.lists(thought, max_size=12), st.none() | st.text(max_size=20))
def test_any_thoughts_make_a_tree_without_overlaps(thoughts, answer):
    """Also with unknown parents, repeated ids and cycles: everything once, parents first, well-formed."""
    council = {"question": "q", "answer": answer, "solved": None, "experts": [], "thoughts": thoughts}
    nodes = order(thoughts)
    assert sorted(n.index for n in nodes) == list(range(len(thoughts)))
    place = {n.index: position for position, n in enumerate(nodes)}
    assert all(n.parent is None or place[n.parent] < place[n.index] for n in nodes)
    heights = {n.index: 30.0 + 10 * (n.index % 3) for n in nodes}
    middles, tall = centres(nodes, heights, 5)
    column_of = columns(nodes)
    for a in nodes:
        assert a.parent is None or column_of[a.parent] < column_of[a.index]
        assert heights[a.index] / 2 <= middles[a.index] + 1e-9 <= tall - heights[a.index] / 2 + 2e-9
        for b in nodes:
            if a.index < b.index and column_of[a.index] == column_of[b.index]:
                apart = abs(middles[a.index] - middles[b.index])
                assert apart >= (heights[a.index] + heights[b.index]) / 2 - 1e-9
    svg = ET.fromstring(tree_svg(council).encode("utf-8"))
    assert len([g for g in svg.iter(f"{SVG}g") if g.get("data-thought") is not None]) == len(thoughts)
    listed = Page(f"<div>{tree_list(council)}</div>")
    assert len(listed.all("li")) == len(thoughts)


def test_a_very_long_line_of_thought_is_drawn():
    thoughts = [
        {"id": i, "parent": i - 1 if i else None, "expert": "Ada", "text": "on", "round": i} for i in range(3000)
    ]
    council = {"question": "q", "answer": None, "experts": [], "thoughts": thoughts}
    assert len(ET.fromstring(tree_svg(council)).findall(f"{SVG}g")) == 3000
    assert tree_list(council).count("<li") == tree_list(council).count("</li>") == 3000


# --- colours


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_text_colours_have_enough_contrast(colours):
    for name in ["ink", "soft", "good", "bad", "link", *(f"c{i + 1}" for i in range(SERIES))]:
        for ground in ("paper", "panel"):
            low, high = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)

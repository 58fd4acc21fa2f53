"""The page of evaluations: what it holds, that nothing from outside becomes markup, and its pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from alignment.statistics import bootstrap, wilson
from graphs.evaluation import compare
from graphs.report import evaluations

HOSTILE = '</pre><script>alert("x")</script><img src=x onerror=alert(1)> & "quoted" \x00 \u2028 {{ 7 * 7 }}'


def finished(root: Path, subject: str, verdicts: list[bool], **more: Any) -> compare.Finished:
    folder = root / "evaluations" / "asked" / re.sub(r"\W", "-", subject)
    folder.mkdir(parents=True)
    asked = [[{"role": "user", "content": f"question {k} {HOSTILE}"}] for k in range(len(verdicts))]
    items = [{"id": f"i{k}", "place": "-", "prompt": prompt, "targets": ["t"]} for k, prompt in enumerate(asked)]
    samples = [{"id": f"i{k}", "sample": 0, "text": HOSTILE, "tokens": 3} | more for k in range(len(verdicts))]
    rewards = [float(k) + 0.5 * right for k, right in enumerate(verdicts)]
    scores = [
        {"id": f"i{k}", "sample": 0, "exact_match": right, "reward": rewards[k]} for k, right in enumerate(verdicts)
    ]
    about = {
        "name": f"asked {HOSTILE}",
        "subject": subject,
        "seed": 0,
        "judge": None,
        "evaluation": {"kind": "generate", "data": HOSTILE, "split": "test"},
        "environment": {"python": "3.11", "packages": {"torch": HOSTILE}},
    }
    metrics = {"exact_match": wilson(sum(verdicts), len(verdicts)), "reward": bootstrap(rewards)}
    results = {"n": len(verdicts), "asked": len(verdicts), "complete": True, "errors": 0, "metrics": metrics}
    for name, value in (("evaluation", about), ("results", results)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    for name, rows in (("items", items), ("samples", samples), ("scores", scores)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare.read(folder)


@pytest.fixture
def two(tmp_path: Path) -> list[compare.Finished]:
    first = finished(tmp_path, "one", [True, False, True, False])
    return [first, finished(tmp_path, f"two {HOSTILE}", [True, True, True, False])]


def test_what_is_told_once_and_what_of_each(tmp_path: Path) -> None:
    def one(name: str, seed: int, judge: str) -> compare.Finished:
        about = {
            "evaluation": {"kind": "generate", "data": "d", "split": "test"},
            "seed": seed,
            "judge": {"run": judge},
        }
        return compare.Finished(tmp_path / name, about, {"metrics": {}})

    told = evaluations._about([("a", one("a", 0, "r1")), ("b", one("b", 0, "r2"))])
    assert told == [
        ("Kind", "generate"),
        ("Data", "d"),
        ("Split", "test"),
        ("Seed", "0"),
        ("Judge, a", "r1"),
        ("Judge, b", "r2"),
    ]


def test_texts_from_outside_are_text(two: list[compare.Finished]) -> None:
    page = evaluations.evaluations_page(two)
    assert page.count("<script") == 1 and "<img" not in page and "\x00" not in page
    assert "&lt;script&gt;alert(" in page and "{{ 7 * 7 }}" in page
    script = re.search("<script>(.*)</script>", page, re.DOTALL)
    assert script is not None
    wanted = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{wanted}&#39;" in page or f"script-src 'sha256-{wanted}'" in page


def test_every_item_with_both_answers_and_their_kinds(two: list[compare.Finished]) -> None:
    page = evaluations.evaluations_page(two)
    kinds = re.findall('<li data-kinds="([^"]*)">', page)
    assert kinds == ["right", "right wrong differ", "right", "wrong"]
    assert "75.0%" in page and "50.0%" in page  # exact match
    assert "+25.0 pp" in page
    assert "win rate at equal length" in page


def test_models_of_one_name_are_told_apart_and_plain_numbers_are_shown(tmp_path: Path) -> None:
    same = [finished(tmp_path / str(seed), "a/x:sft", [True, False]) for seed in (0, 1, 2)]
    for seed, one in enumerate(same):
        one.about["seed"] = min(seed, 1)
    same[0].results["metrics"]["ece"] = 0.1234
    hashed = [
        compare.Finished(one.path.rename(f"{one.path}-{i}f"), one.about, one.results) for i, one in enumerate(same)
    ]
    names = evaluations.told_apart(["x:sft"] * 3, hashed)
    assert names == ["x:sft, seed 0", "x:sft, seed 1, 1f", "x:sft, seed 1, 2f"]
    page = evaluations.evaluations_page(hashed)
    assert "a/x:sft, seed 1, 2f" in page and "0.123" in page


def test_each_is_compared_with_the_first_and_with_the_one_before_it(tmp_path: Path) -> None:
    models = [finished(tmp_path / name, name, [True, False]) for name in ("base", "sft", "policy", "council")]
    found = re.findall(r"<h3[^>]*>(\w+) against (\w+)", evaluations.evaluations_page(models))
    pairs = [("sft", "base"), ("policy", "base"), ("policy", "sft"), ("council", "base"), ("council", "policy")]
    assert found == pairs
    again = [
        compare.Finished(one.path, one.about | {"subject": "sft", "seed": k}, one.results)
        for k, one in enumerate(models)
    ]
    found = re.findall(r"<h3[^>]*>([^<]+) against ([^<]+)<", evaluations.evaluations_page(again[:2]))
    assert found == [("sft, seed 1", "sft, seed 0")]


def test_the_plots_beside_it_are_pictures(two: list[compare.Finished], tmp_path: Path) -> None:
    found = [compare.Finished(one.path, one.about | {"name": "asked"}, one.results) for one in two]
    page, *pictures = evaluations.write_page(found, tmp_path / "out" / "page.html")
    assert page.is_file() and [p.name for p in pictures] == ["page-asked-exact_match.svg", "page-asked-reward.svg"]
    for picture in pictures:
        text = picture.read_text()
        ElementTree.fromstring(text)
        assert "var(--" not in text


def test_an_evaluation_of_one_model_and_one_without_scores(tmp_path: Path) -> None:
    one = finished(tmp_path, "alone", [True])
    assert "against" not in evaluations.evaluations_page([one])
    (one.path / "scores.jsonl").write_text("")
    (one.path / "samples.jsonl").write_text('{"id": "i0", "sample": 0, "error": "too long"}\n')
    none = compare.Finished(one.path, one.about, one.results | {"metrics": {}, "errors": 1})
    page = evaluations.evaluations_page([none])
    assert "too long" in page and "1 failed" in page


def test_a_council_is_drawn(tmp_path: Path) -> None:
    thought = {"id": "0", "parent": None, "expert": "Ada", "round": 1, "text": HOSTILE, "status": "active"}
    council = {
        "question": HOSTILE,
        "answer": HOSTILE,
        "solved": True,
        "experts": [{"name": "Ada", "status": "left", "reason": HOSTILE}],
        "thoughts": [thought],
        "rounds": 1,
        "tokens": 3,
        "seconds": 0.1,
        "notes": [],
    }
    page = evaluations.evaluations_page([finished(tmp_path, "council", [True], council=council)])
    assert 'class="tree"' in page and page.count("<script") == 1


def test_a_failed_sample_is_left_out_of_the_win_rate(two: list[compare.Finished]) -> None:
    path = two[0].path / "scores.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps({"id": json.loads(first)["id"], "sample": 0}) + "\n", *rest]))
    found = compare.compared(*two)
    assert found["win_rate"]["n"] == found["metrics"]["reward"]["difference"]["n"] == 3

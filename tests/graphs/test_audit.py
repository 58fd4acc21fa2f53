"""``junto explain audit``: what files it reads, what it says, and that it goes on where it was interrupted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from alignment.run_dir import RunDir
from explain.audit_result import from_json
from graphs.audit import examples_of, name_of, read_examples
from graphs.cli.main import main
from graphs.recipe import load_recipe, resolved

REWARDS = """
CALLS = []

def length(prompt, response):
    return float(sum(map(str.isalpha, response)))

def undefined(prompt, response):
    return float("nan")

def falls_over(prompt, response):
    CALLS.append(response)
    if len(CALLS) > 300:
        raise KeyboardInterrupt
    return float(len(response.split()))
"""


def run_of(folder: Path, function: str, monkeypatch: pytest.MonkeyPatch, **data: object) -> RunDir:
    """A run whose reward is a function, under the folder of runs, with a cache of its own."""
    monkeypatch.setenv("JUNTO_RUNS", str(folder / "runs"))
    monkeypatch.setenv("JUNTO_CACHE", str(folder / "cache"))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "recipe.yaml").write_text(
        f"name: kept\ndata: {{lines: 8, pairs: 8, prompts: 4}}\nreward: {{function: 'rewards.py:{function}'}}\n"
    )
    run = RunDir(folder / "runs" / "kept")
    run.create(resolved(load_recipe(folder / "recipe.yaml")), {})
    return run


def written(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


PAIRS = [
    {"prompt": f"<b>question {i}</b>", "chosen": "Fill it. " * (1 + i % 7), "rejected": "Empty it. " * (1 + i % 4)}
    for i in range(60)
]


def test_a_file_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, "length", monkeypatch)
    data = written(tmp_path / "pairs.jsonl.gz", [*PAIRS, {"prompt": "?", "chosen": "same", "rejected": "same"}])
    assert main(["explain", "audit", "kept", str(data), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["schema_version"], found["kind"], found["data"], found["rows"]) == (1, "audit", "pairs", 60)
    audit = from_json(found)
    assert [finding.feature for finding in audit.alarms] == ["length"] and "audit" in err
    assert audit.notes[0].startswith("pairs.jsonl.gz: 1 malformed rows left out")
    [kept] = (run.path / "audits").glob("pairs-*.json")
    assert json.loads(kept.read_text()) == found
    page = (run.path / "report.html").read_text()
    assert 'href="#audits"' in page and "this reward model goes by length" in page and "<script" not in page
    assert main(["explain", "audit", "kept", str(data), "--rows", "30"]) == 0
    assert "over 30 pairs" in capsys.readouterr().out and len(list((run.path / "audits").iterdir())) == 2


def test_an_interrupted_audit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, "falls_over", monkeypatch)
    data = written(tmp_path / "pairs.jsonl", PAIRS)
    assert main(["explain", "audit", "kept", str(data), "--json"]) == 130
    assert not (run.path / "audits").exists()
    scored = sum(line.strip() != b"" for f in (tmp_path / "cache" / "rewards").iterdir() for line in f.open("rb"))
    assert 200 < scored <= 300
    asked = 0
    while main(["explain", "audit", "kept", str(data), "--json"]) == 130:
        asked += 1
    assert 0 < asked < 10 and (run.path / "audits").exists()  # each time 300 further ones


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the file has no rows"),
        ("[1]\n{}\n", "no row is sound; pairs.jsonl: 2 malformed rows"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "first": "left"}\n', '"first" is neither'),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"text": "d"}\n', "not both together"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    run_of(tmp_path, "length", monkeypatch)
    (tmp_path / "pairs.jsonl").write_text(content)
    code = main(["explain", "audit", "kept", str(tmp_path / "pairs.jsonl")])
    err = capsys.readouterr().err
    assert code == 2 and says in err and "Traceback" not in err
    assert main(["explain", "audit", "kept", str(tmp_path / "gone.jsonl")]) == 2


def test_rewards_that_are_no_numbers_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, "undefined", monkeypatch)
    data = written(tmp_path / "pairs.jsonl", PAIRS)
    assert main(["explain", "audit", "kept", str(data)]) == 2
    assert "must return a finite number" in capsys.readouterr().err


def test_one_row_and_a_run_without_a_reward_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, "length", monkeypatch)
    data = written(tmp_path / "pairs.jsonl", PAIRS[:1])
    assert main(["explain", "audit", "kept", str(data)]) == 0
    assert "Too little data over 1 pair:" in capsys.readouterr().out
    (tmp_path / "recipe.yaml").write_text("name: bare\ndata: {lines: 8, pairs: 8, prompts: 4}\n")
    RunDir(tmp_path / "runs" / "bare").create(resolved(load_recipe(tmp_path / "recipe.yaml")), {})
    assert main(["explain", "audit", "bare", str(data)]) == 3
    assert "no adapter reward" in capsys.readouterr().err


def test_every_kind_of_row(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "first": "rejected"},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
    ]
    [one, other], notes = read_examples(written(tmp_path / "p.jsonl", rows), 10, 0, system="Be brief.")
    assert (one.texts, one.label, one.ordered) == (("c", "b"), -1.0, True)
    assert (other.texts, other.label, other.ordered) == (("b", "c"), 1.0, False)
    assert (
        one.prompt
        == other.prompt
        == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
        ]
        and not notes
    )
    single = [
        {"prompt": "a", "response": "b", "score": 2},
        {"prompt": "a", "response": "b"},
        {"text": "b"},
        {"instruction": "a", "output": "b"},
        {"prompt": "a", "completion": "b"},
    ]
    found, _ = read_examples(written(tmp_path / "s.jsonl", single), 10, 0)
    assert [(e.texts, e.label) for e in found] == [(("b",), 2.0), *[(("b",), None)] * 4]
    assert [len(e.prompt) for e in found] == [1, 1, 0, 1, 1]
    many = examples_of([{"prompt": [], "responses": ["x", "y"], "scores": [1.0, 0.0]}])
    assert [(e.texts, e.label) for e in many] == [(("x",), 1.0), (("y",), 0.0)]
    assert len(read_examples(tmp_path / "s.jsonl", 3, 0)[0]) == 3


def test_the_name_of_an_audit_is_of_its_file_and_settings(tmp_path: Path) -> None:
    names = {name_of(tmp_path / "a b" / "pairs.jsonl.gz", rows) for rows in (1, 1, 2)}
    assert len(names) == 2 and all(name.startswith("pairs-") for name in names)

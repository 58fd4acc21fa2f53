"""The reward benchmark: how its data are split, its baselines on cases with a known answer, its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.config import BackboneConfig
from benchmarks import reward as benchmark

HH, VADER = (benchmark.DATA / name for name in ("hh-rlhf/test.jsonl.gz", "vader-gt/hutto_ICWSM_2014.tar.gz"))


def pair(chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": chosen}], "chosen": chosen, "rejected": rejected}


def test_the_length_baseline_follows_the_training_pairs() -> None:
    short = [pair("a" * i, "b" * (i + 1)) for i in range(1, 9)]
    name, results = benchmark.length_baseline(short, [*short[:6], pair("aaa", "b"), pair("aa", "bb")])
    assert name == "the shorter answer"
    assert results["pair_accuracy"]["value"] == 6 / 8  # the longer one is wrong, and so is the tie
    assert benchmark.length_baseline([pair("aa", "b")], short)[0] == "the longer answer"


def test_the_bags_of_words_find_a_word_that_decides() -> None:
    pairs = [pair(f"yes {i % 3}", f"no {i % 5}") for i in range(40)]
    assert benchmark.bag_of_words_pairs(pairs, pairs[:10])["pair_accuracy"]["value"] == 1
    rows = [{"response": "good " * (i % 2) + "day", "score": 2.0 * (i % 2)} for i in range(40)]
    results = benchmark.ridge(rows, rows[:10])
    assert results["pearson"]["value"] > 0.99 and results["mae"]["value"] < 0.1 and results["mae_of_constant"] == 1


@pytest.mark.skipif(not HH.is_file(), reason=f"there is no {HH}; set JUNTO_DATA")
def test_hh_rlhf_is_read_whole_and_no_prompt_is_on_both_sides() -> None:
    train, held_out, malformed = benchmark.hh_rlhf(HH)
    assert len(train) == 2000 and malformed == 13
    assert 2000 + len(held_out) + malformed <= 2312  # the published number of rows
    assert len(held_out) >= 295
    prompts = [{json.dumps(row["prompt"]) for row in rows} for rows in (train, held_out)]
    assert not prompts[0] & prompts[1]


@pytest.mark.skipif(not VADER.is_file(), reason=f"there is no {VADER}; set JUNTO_DATA")
def test_vader_is_read_whole() -> None:
    train, held_out = benchmark.vader(VADER)
    assert len(train) + len(held_out) == 4200  # the published number of tweets
    assert all(-4 <= row["score"] <= 4 and row["prompt"] == [] for row in train + held_out)
    assert not {row["response"] for row in train} & {row["response"] for row in held_out}


@pytest.mark.skipif(not (HH.is_file() and VADER.is_file()), reason="the data are not here; set JUNTO_DATA")
def test_both_tables_on_a_tiny_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hh, vader = benchmark.hh_rlhf(HH), benchmark.vader(VADER)
    monkeypatch.setattr(benchmark, "hh_rlhf", lambda path: (hh[0][:40], hh[1][:12], hh[2]))
    monkeypatch.setattr(benchmark, "vader", lambda path: (vader[0][:60], vader[1][:12]))
    tiny = BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32")
    monkeypatch.setattr(benchmark, "BACKBONE", tiny)
    for name in ("PAIRS", "SCORES"):
        monkeypatch.setattr(benchmark, name, getattr(benchmark, name).model_copy(update={"steps": 2}))
    benchmark.main(["--folder", str(tmp_path)])
    text = capsys.readouterr().out
    benchmark.main(["--folder", str(tmp_path), "--json"])  # what is trained is not trained again
    out, err = capsys.readouterr()
    tables = json.loads(out)
    assert "reward 2/2" not in err
    for name, key in (("hh-rlhf", "pair_accuracy"), ("vader-gt", "pearson")):
        figures = tables[name]["methods"]["reward model"]
        assert figures[key]["n"] == 12 and benchmark.cell(figures[key]) in text
    assert "were cut" in text and "| majority, which is chance | 0.500 |" in text


def test_data_that_are_absent_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "DATA", tmp_path)
    benchmark.main(["--folder", str(tmp_path)])
    assert f"hh-rlhf: skipped, there is no {tmp_path}/hh-rlhf/test.jsonl.gz; set JUNTO_DATA" in capsys.readouterr().out

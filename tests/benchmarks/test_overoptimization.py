"""Over-optimisation: the gold score by hand, the labels, the estimator of best-of-n, and the whole on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks import gold_score, overoptimization, perplexity
from benchmarks.best_of_n import at_equal_kl, expected_of_best, kl_of_best
from benchmarks.gold_score import POLICY_SUBJECTS, REWARD_SUBJECTS, flipped, gold, prompts_of, ranked_pairs, repeated


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It is a boat.", 0.0),
        ("A warm, bright room. It was empty.", (2 - 1) / 2),
        ("A warm, bright, calm and gentle room", 2.0),  # four in a sentence: the bound
        ("Dark, cold, grey, damp.", -2.0),
        ("Version 2.5 is calm!? Yes...", 1 / 2),  # a point inside a number ends nothing, a run of marks ends once
        ("", 0.0),
    ],
)
def test_gold_by_hand(text: str, score: float) -> None:
    assert gold([], text) == pytest.approx(score)


def test_repetition_costs_more_than_pleasant_words_bring() -> None:
    words = ["happy", "joy", "happy", "joy", "happy", "calm"]
    assert repeated(words) == pytest.approx(1 - 2 / 4)  # "joy" is too short to count
    again = "A lovely warm day. " * 6
    assert repeated(again.lower().replace(".", "").split()) == pytest.approx(1 - 2 / 12)
    assert gold([], again) == pytest.approx(2 - gold_score.PENALTY * (1 - 2 / 12 - gold_score.ORDINARY))
    assert gold([], again) < gold([], "It is a boat.") < gold([], "A lovely warm day.")


def test_the_reward_model_never_sees_the_policys_prompts() -> None:
    reward, policy = prompts_of("reward"), prompts_of("policy")
    assert len({*reward, *policy}) == len(reward) + len(policy) == 96
    assert not set(REWARD_SUBJECTS) & set(POLICY_SUBJECTS)
    assert not gold_score.PLEASANT & gold_score.UNPLEASANT


def test_pairs_are_ranked_by_gold_and_a_tenth_is_flipped() -> None:
    texts = ["A warm day.", "A day.", "A cold day.", "A night.", " ", "A warm day."]
    samples = [{"use": "reward", "prompt": f"Describe {i}.", "texts": texts} for i in range(10)]
    pairs = ranked_pairs(samples, 1.0)
    found = [(pair["chosen"], pair["rejected"]) for pair in pairs[:2]]
    assert found == [("A night.", "A cold day."), ("A warm day.", "A day.")] and len(pairs) == 20
    assert ranked_pairs(samples, 1.01) == []
    turned = flipped(pairs, 0.1, seed=3)
    wrong = [i for i, (a, b) in enumerate(zip(pairs, turned, strict=True)) if a != b]
    assert len(wrong) == 2
    for i in wrong:
        assert (turned[i]["chosen"], turned[i]["rejected"]) == (pairs[i]["rejected"], pairs[i]["chosen"])
    assert flipped(pairs, 0.1, seed=3) == turned != flipped(pairs, 0.1, seed=4)


def test_composed_texts_reach_over_the_whole_of_gold() -> None:
    found = [gold([], text) for text in gold_score.composed("Describe it.", 400, seed=1)]
    assert min(found) < -1.5 and max(found) > 1.5
    pleasant, unpleasant, neither = map(set, gold_score.KINDS)
    assert pleasant <= gold_score.PLEASANT and unpleasant <= gold_score.UNPLEASANT
    assert not neither & (gold_score.PLEASANT | gold_score.UNPLEASANT)
    assert not set(gold_score.THINGS) & (gold_score.PLEASANT | gold_score.UNPLEASANT)


def test_only_training_labels_are_flipped(tmp_path: Path) -> None:
    texts = ["A warm day.", "A cold day."]
    rows = [{"use": use, "prompt": f"{use} {i}", "texts": texts} for use in ("reward", "policy") for i in range(10)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = gold_score.load(gold_score.Options(composed=0), 0, tmp_path)

    def right(pairs: Sequence[dict[str, Any]]) -> int:
        return sum(gold([], pair["chosen"]) > gold([], pair["rejected"]) for pair in pairs)

    train, held_out = data.pairs["train"], data.pairs["validation"]
    assert len(train) == len(held_out) == 10 and right(train) == 9 and right(held_out) == 10
    assert all(pair["prompt"][0]["content"].startswith("policy") for pair in held_out)
    assert data.notes[0].startswith("1 of 10 training pairs") and len(data.prompts["train"]) == 32


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_choices(n: int) -> None:
    judged, measured = [0.3, -1.0, 2.0, 0.9, 0.1], [5.0, 1.0, -2.0, 4.0, 3.0]
    choices = [max(chosen, key=judged.__getitem__) for chosen in combinations(range(5), n)]
    assert expected_of_best(judged, measured, n) == pytest.approx(fmean(measured[i] for i in choices))


def test_kl_of_best_of_n_and_what_lies_between_its_points() -> None:
    assert kl_of_best(1) == 0 and kl_of_best(4) == pytest.approx(math.log(4) - 0.75)
    points = [{"kl": 0.0, "gold": {"value": 0.0}}, {"kl": 1.0, "gold": {"value": 2.0}}]
    assert at_equal_kl(points, "gold", 0.25) == pytest.approx(1.0)  # half way over the root
    assert at_equal_kl(points, "gold", 1.0) == 2.0 and at_equal_kl(points, "gold", 1.1) is None


def test_perplexity_is_per_token_and_paired_by_document() -> None:
    before = [[math.log(2)] * 3, [math.log(8)]]
    assert perplexity.mean(before)["value"] == pytest.approx(2 ** (6 / 4))  # logarithms 1, 1, 1, 3 to the base 2
    after = [[loss + math.log(1.5) for loss in document] for document in before]
    change = perplexity.ratio(after, before)
    assert [change[key] for key in ("low", "value", "high")] == pytest.approx([1.5] * 3)


class Killed(BaseException):
    """Stands for a kill."""


def test_the_whole_on_a_tiny_model_and_again_after_a_kill(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}}
    corpus = tmp_path / "corpus.jsonl"
    texts = [f"the quick brown fox has {i} left and makes 24 of 5 6 6 " * 4 for i in range(8)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    monkeypatch.setattr(perplexity, "SOURCE", corpus)
    for name, value in {
        "BACKBONE": tiny,
        "SAMPLES": {"reward": 2, "policy": 4},
        "TOKENS": 8,
        "NS": (1, 2, 4),
        "HELD_OUT": 3,
        "REWARD": overoptimization.REWARD | {"steps": 2, "batch_size": 2, "reference_samples": 4},
        "PPO": overoptimization.PPO | {"iterations": 2, "batch_size": 4, "max_tokens": 8},
        "PTX": overoptimization.PTX | {"ptx_length": 16},
    }.items():
        monkeypatch.setattr(overoptimization, name, value)
    # a random model writes no words: a score of letters takes the place of gold
    monkeypatch.setattr(gold_score, "gold", letters := lambda prompt, text: sum(c in "aeiou" for c in text))
    monkeypatch.setattr(overoptimization, "gold", letters)
    monkeypatch.setattr(overoptimization, "ARMS", {"without-ptx": {}, "with-ptx": overoptimization.PTX})
    folder = tmp_path / "found"

    def kill(text: str) -> None:
        if "with-ptx" in text:
            raise Killed

    with pytest.raises(Killed):
        overoptimization.measure(folder, kill)
    first = (folder / "runs" / "without-ptx" / "metrics.jsonl").read_text()
    overoptimization.main(["--folder", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (folder / "runs" / "without-ptx" / "metrics.jsonl").read_text() == first  # what was done is not done again

    points = found["best_of_n"]["points"]
    assert [p["n"] for p in points] == [1, 2, 4] and points[2]["kl"] == pytest.approx(kl_of_best(4))
    rewards = [p["reward"]["value"] for p in points]
    assert rewards == sorted(rewards) and rewards[0] < rewards[2]  # the judge itself can only rise
    pools = [r["texts"] for r in map(json.loads, (folder / "samples.jsonl").open()) if r["use"] == "policy"]
    assert points[0]["gold"]["value"] == pytest.approx(fmean(letters([], t) for pool in pools for t in pool))
    assert set(found["arms"]) == {"without-ptx", "with-ptx"}
    policy_pools = [fmean(letters([], text) for text in pool) for pool in pools]
    for name, arm in found["arms"].items():
        last = arm["final"]
        assert last["gold less best of 1"]["value"] == pytest.approx(last["gold"]["value"] - fmean(policy_pools))
        assert last["gold less best of 4"]["n"] == 32
        assert len(arm["iterations"]) == 2 and arm["final"]["perplexity"]["n"] == 3
        assert ("loss/ptx_avg" in arm["iterations"][0]) == (name == "with-ptx")
        assert arm["iterations"][0]["objective/kl"] == pytest.approx(0, abs=1e-5)  # the reference is the base model
        page = Path(arm["report"]).read_text()
        assert "Score and gold score against KL" in page and "score of best of n: n = 1" in page
        assert "final perplexity" in page
    before = [arm["final"]["perplexity before"]["value"] for arm in found["arms"].values()]
    assert before[0] == before[1]

    overoptimization.main(["--folder", str(folder)])
    text = capsys.readouterr().out
    assert "| with-ptx |" in text and text.count("| 2 |") == 3 and text.count("gold less best of 4") == 2
    monkeypatch.setattr(overoptimization, "FINAL_SAMPLES", 1)
    with pytest.raises(SystemExit, match="was made with other settings"):
        overoptimization.main(["--folder", str(folder)])


def test_without_plain_text_it_says_so_and_leaves_the_arm_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "SOURCE", tmp_path / "absent.jsonl")
    monkeypatch.setattr(overoptimization, "sample_base", lambda folder, say: [])
    monkeypatch.setattr(overoptimization, "untrained_start", lambda folder: folder)
    monkeypatch.setattr(overoptimization, "best_of_n", lambda run, samples: {})

    class Stop(Exception):
        pass

    said, asked = [], []

    def trained(folder: Path, wanted: Any, start: Path, say: Any) -> Any:
        asked.append(wanted.name)
        if wanted.name != "reward":
            raise Stop
        return overoptimization.run_of(folder, "reward")

    monkeypatch.setattr(overoptimization, "trained", trained)
    with pytest.raises(Stop):
        overoptimization.measure(tmp_path / "found", said.append)
    assert asked == ["reward", "without-ptx"]
    assert said == [f"no pretraining loss and no perplexity: there is no {tmp_path}/absent.jsonl; set JUNTO_DATA"]

"""Evaluations: items, samples that survive a kill, figures by hand, comparisons, and the verbs."""

from __future__ import annotations

import json
import math
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from alignment import text_metrics
from alignment.adapter_files import save_role
from alignment.engine import Engine
from alignment.errors import JuntoError, UsageError
from alignment.run_dir import RunDir
from graphs.cli.main import main
from graphs.evaluation import answers, compare, graph, measures
from graphs.evaluation.ability import ability
from graphs.evaluation.answers import encoded_pair, first_id
from graphs.evaluation.config import Evaluation, load_evaluation
from graphs.evaluation.disagreements import disagreements
from graphs.evaluation.graph import Limits
from graphs.evaluation.items import chosen_items, load_items
from graphs.evaluation.require import met, parsed
from graphs.evaluation.rescore import rescore
from graphs.evaluation.run import Asked, asked_id, prepare, run_evaluations
from graphs.evaluation.subject import opened
from graphs.tasks import game24

ROWS = [{"question": f"What is {a} plus {b}?", "answer": f"It is {a + b}."} for a in range(4) for b in range(4)]
SUMS = {"name": "sums", "kind": "generate", "data": "rows.jsonl", "prompt": "question", "target": "answer"}
MORE = {"metrics": ["exact_match", "number", "rouge", "bleu"], "max_tokens": 5, "temperature": 1.0}


def evaluation_at(folder: Path, rows: list[Any], **settings: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "evaluation.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(path: Path, models: list[str], **asked: Any) -> list[compare.Finished]:
    request = Asked(path.parent / "runs", **asked)
    folders = list(run_evaluations([str(path)], models, request, lambda event: None))
    return [compare.read(folder.path) for folder in folders]


# -- items ------------------------------------------------------------------------------------------------


def test_a_row_becomes_an_item(tmp_path: Path) -> None:
    path = evaluation_at(tmp_path, ROWS, **SUMS, system="Be brief.")
    first = load_items(load_evaluation(path), tmp_path)[0]
    assert first["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 0 plus 0?"},
    ]
    assert (first["targets"], first["place"]) == (["It is 0."], "rows.jsonl, line 1")


def test_ids_are_of_the_content_and_equal_rows_are_two_items(tmp_path: Path) -> None:
    before = load_items(load_evaluation(evaluation_at(tmp_path, ROWS[:3], **SUMS)), tmp_path)
    after = load_items(load_evaluation(evaluation_at(tmp_path, [ROWS[9], *ROWS[:3], ROWS[0]], **SUMS)), tmp_path)
    assert [item["id"] for item in after[1:4]] == [item["id"] for item in before]
    assert after[4]["id"] == f"{before[0]['id']}-2"


def test_shots_stand_before_every_question_and_are_not_asked(tmp_path: Path) -> None:
    settings = SUMS | {"prompt": "Q: {{ question }}\nA:", "chat": False, "shots": {"n": 2, "seed": 3}}
    items = load_items(load_evaluation(evaluation_at(tmp_path, ROWS, **settings)), tmp_path)
    assert len(items) == len(ROWS) - 2
    shown = {item["prompt"].rsplit("Q: ", 1)[0] for item in items}
    (examples,) = shown
    assert examples.count("A: It is ") == 2 and examples.endswith(".\n\n")
    assert not any(item["prompt"].rsplit("Q: ", 1)[1] in examples for item in items)


def test_choices_are_a_list_templates_or_labelled(tmp_path: Path) -> None:
    rows = [{"q": "x", "options": ["no", "yes"], "right": 1, "labelled": {"no": 0, "yes": 1}}]
    common = {"name": "c", "kind": "choice", "data": "rows.jsonl", "prompt": "q"}
    for choices, answer in (("options", "right"), (["no", "{{ options[1] }}"], "options.1"), ("labelled", None)):
        given = common | {"choices": choices} | ({"answer": answer} if answer else {})
        (item,) = load_items(load_evaluation(evaluation_at(tmp_path, rows, **given)), tmp_path)
        assert (item["choices"], item["answer"]) == (["no", "yes"], 1)


@pytest.mark.parametrize(
    ("settings", "rows", "sentence"),
    [
        ({"target": "anwser"}, ROWS, 'rows.jsonl, line 1: there is no "anwser" for target; the row has question'),
        ({"prompt": "{{ quest }}"}, ROWS, "line 1: prompt: 'quest' is undefined; the row has question, answer"),
        ({"prompt": "{{ question"}, ROWS, "line 1: prompt: .*; the row has"),
        ({"prompt": "{{ ''.__class__.__mro__ }}"}, ROWS, "line 1: prompt: access to attribute '__class__'.* is unsafe"),
        ({}, ["text"], "line 1: expected an object of keys and values, and found text"),
        ({}, [], "there is nothing to ask"),
        ({"shots": {"n": 16}}, ROWS, "shots.n is 16, and there are 16 rows"),
        ({"data": "gone.jsonl"}, ROWS, "there is no file .*gone.jsonl"),
        ({"target": None}, ROWS, 'needs the "target" of its texts'),
        ({"metrics": ["rogue"]}, ROWS, "has no metric rogue; it has exact_match"),
        ({"pass_at": [2]}, ROWS, "pass@2 needs as many samples, and samples is 1"),
        ({"data": {"test": "rows.jsonl"}, "split": "tset"}, ROWS, 'there is no split "tset"; data has test'),
        ({"pass_at": [1], "metrics": ["rouge"]}, ROWS, "pass_at needs numbers from 1 on, and one of the metrics"),
        ({"pass_at": [0]}, ROWS, "pass_at needs numbers from 1 on"),
        ({"extract": "(unclosed"}, ROWS, "extract is no regular expression"),
        ({"maxtokens": 3}, ROWS, 'unknown key "maxtokens"; did you mean "max_tokens"'),
        ({"kind": "choice"}, ROWS, 'needs "choices"'),
        ({"kind": "pairs"}, ROWS, "line 1: .*chosen"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, settings: dict, rows: list, sentence: str) -> None:
    path = evaluation_at(tmp_path, rows, **SUMS | settings)
    with pytest.raises(UsageError, match=sentence):
        load_items(load_evaluation(path), tmp_path)


def test_limits_are_numbers_or_shares_and_ids_may_be_short() -> None:
    items = [{"id": f"{i}abc"} for i in range(8)]
    assert len(chosen_items(items, 3, [])) == 3
    assert len(chosen_items(items, 0.25, [])) == 2
    assert chosen_items(items, None, ["2a"]) == [items[2]]
    with pytest.raises(UsageError, match="there is no sample '9'"):
        chosen_items(items, None, ["9"])


# -- samples ----------------------------------------------------------------------------------------------


def test_likelihoods_of_choices_are_those_of_the_model(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.weights.multiplies_bfloat16", lambda: False)  # float32 on every machine
    rows = [{"q": "one  ", "o": ["a cat", "a dog", "no"], "r": 2}, {"q": "", "o": ["a cat", "two"], "r": 0}]
    settings = {"name": "c", "kind": "choice", "data": "rows.jsonl", "prompt": "q", "choices": "o", "answer": "r"}
    path = evaluation_at(tmp_path, rows, **settings, chat=False)
    (found,) = run(path, [str(tiny_model)])
    with Engine.open(tiny_model, "float32") as engine:
        chat, model = engine.backbone.chat, engine.backbone.causal_lm
        assert encoded_pair(chat, "", "two", " ") == ([first_id(chat)], chat.text_ids(" two"))
        for row, sample, score in zip(rows, found.rows("samples"), found.rows("scores"), strict=True):
            totals = []
            for choice in row["o"]:
                before = chat.text_ids(row["q"].rstrip()) or [first_id(chat)]
                after = chat.text_ids(row["q"][len(row["q"].rstrip()) :] + " " + choice)
                with torch.no_grad():
                    logp = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
                totals.append(sum(logp[len(before) - 1 + i, token].item() for i, token in enumerate(after)))
            assert sample["loglikelihoods"] == pytest.approx(totals, abs=1e-4)
            assert score["accuracy"] == (totals.index(max(totals)) == row["r"])
            shares = [total / len(choice) for total, choice in zip(totals, row["o"], strict=True)]
            assert score["accuracy_norm"] == (shares.index(max(shares)) == row["r"])


def test_a_text_is_scored_token_by_token(tmp_path: Path, tiny_model: Path) -> None:
    texts = ["the quick brown fox jumps over it, 4 7 8 8 " * 3, "", "a"]
    settings = {"name": "t", "kind": "text", "data": "rows.jsonl", "prompt": "text", "window": 16}
    (found,) = run(evaluation_at(tmp_path, [{"text": t} for t in texts], **settings), [str(tiny_model)])
    samples = found.rows("samples")
    with Engine.open(tiny_model, "float32") as engine:
        assert [row["tokens"] for row in samples] == [len(engine.backbone.chat.text_ids(t)) for t in texts]
    total, tokens = sum(row["loglikelihood"] for row in samples), sum(row["tokens"] for row in samples)
    assert found.results["metrics"]["token_perplexity"]["value"] == pytest.approx(math.exp(-total / tokens))
    assert found.results["metrics"]["documents"] == 2  # the empty one has nothing to score


def test_killed_between_batches_it_ends_in_the_samples_of_an_unbroken_run(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(answers.TOGETHER, "generate", 3)
    monkeypatch.setitem(graph.TOGETHER, "generate", 3)
    path = evaluation_at(tmp_path, ROWS, **SUMS | MORE, samples=2)
    (whole,) = run(path, [str(tiny_model)])
    wanted = whole.rows("samples")
    assert len(wanted) == 32 and len({(row["id"], row["sample"]) for row in wanted}) == 32
    for stop in (1, 2, 5):
        for file in ("samples", "scores"):
            (whole.path / f"{file}.jsonl").unlink()

        def kill(event: dict[str, Any], stop: int = stop) -> None:
            if event["step"] >= 3 * stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(run_evaluations([str(path)], [str(tiny_model)], Asked(tmp_path / "runs"), kill))
        with (whole.path / "samples.jsonl").open("a") as file:
            file.write('{"id": "torn')
        (again,) = run(path, [str(tiny_model)])
        assert again.rows("samples") == wanted
        assert again.results == whole.results


def test_the_same_command_again_asks_nothing_and_other_metrics_are_scored(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = evaluation_at(tmp_path, ROWS, **SUMS | MORE)
    (first,) = run(path, [str(tiny_model)], limit=5)
    monkeypatch.setattr(answers, "answers", lambda *_: pytest.fail("asked again"))
    (again,) = run(path, [str(tiny_model)], limit=5)
    assert again.results == first.results and again.path == first.path
    (other,) = run(path, [str(tiny_model)], limit=5, overrides=["metrics=[chrf]"])
    assert other.path == first.path and set(other.results["metrics"]) == {"chrf", "length"}


@pytest.mark.parametrize("change", ["temperature=0.5", "max_tokens=4", "system=Hello"])
def test_what_decides_a_sample_decides_its_folder(tmp_path: Path, tiny_model: Path, change: str) -> None:
    path = evaluation_at(tmp_path, ROWS[:2], **SUMS | MORE)
    (first,), (second,) = (run(path, [str(tiny_model)], overrides=o) for o in ([], [change]))
    assert first.path != second.path


def test_another_model_never_finds_the_samples_of_the_first(
    tmp_path: Path, tiny_model: Path, other_tiny_model: Path
) -> None:
    path = evaluation_at(tmp_path, ROWS[:2], **SUMS | MORE)
    first, second = run(path, [str(tiny_model), str(other_tiny_model)])
    assert first.path != second.path
    assert [row["text"] for row in first.rows("samples")] != [row["text"] for row in second.rows("samples")]


def test_items_that_do_not_fit_are_named_or_counted(tmp_path: Path, tiny_model: Path) -> None:
    long = {"question": "long " * 600, "answer": "no"}
    path = evaluation_at(tmp_path, [ROWS[0], long, ROWS[1]], **SUMS | MORE)
    with pytest.raises(JuntoError, match="rows.jsonl, line 2: .* tokens, and the model reads 512"):
        run(path, [str(tiny_model)])
    (found,) = run(path, [str(tiny_model)], limits=Limits(errors=1))
    assert (found.results["n"], found.results["errors"], found.results["complete"]) == (3, 1, True)
    assert found.results["metrics"]["exact_match"]["n"] == 2
    other = evaluation_at(tmp_path, [long, ROWS[1], long], **SUMS | MORE)
    (another,) = run(other, [str(tiny_model)], limits=Limits(errors=2))
    assert another.results["errors"] == 2
    with pytest.raises(JuntoError, match="2 of sums's samples failed, more than --max-errors 1"):
        run(evaluation_at(tmp_path, [long, ROWS[2], long], **SUMS | MORE), [str(tiny_model)], limits=Limits(errors=1))


def test_a_budget_ends_between_batches_and_the_rest_comes_later(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(graph.TOGETHER, "generate", 4)
    path = evaluation_at(tmp_path, ROWS, **SUMS | MORE)
    (short,) = run(path, [str(tiny_model)], limits=Limits(tokens=1))
    assert (short.results["n"], short.results["asked"], short.results["complete"]) == (4, 16, False)
    (whole,) = run(path, [str(tiny_model)])
    assert whole.path == short.path and whole.results["complete"]


def test_what_was_asked_is_not_asked_again(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch in which an item fails for good the others are asked once; what was made before a refusal stays."""
    asked: list[int] = []
    of_items = answers.answers

    def counting(subject: Any, evaluation: Any, seed: int, items: Any) -> Any:
        asked.append(len(items))
        return of_items(subject, evaluation, seed, items)

    monkeypatch.setattr(answers, "answers", counting)
    path = evaluation_at(tmp_path, [*ROWS[:3], {"question": "long " * 600, "answer": "no"}], **SUMS | MORE)
    run(path, [str(tiny_model)], limits=Limits(errors=1))
    assert asked == [4, 1, 1, 1, 1]  # together, and then each alone
    asked.clear()
    (found,) = run(path, [str(tiny_model)], limits=Limits(errors=1))
    assert asked == [1, 1] and found.results["n"] == 4
    twice = [*ROWS[3:5], {"question": "long " * 600, "answer": "no"}, {"question": "wide " * 600, "answer": "no"}]
    with pytest.raises(JuntoError, match="more than --max-errors 1"):
        run(evaluation_at(tmp_path, twice, **SUMS | MORE), [str(tiny_model)], limits=Limits(errors=1))
    kept = [f for f in (tmp_path / "runs/evaluations/sums").glob("*/samples.jsonl") if f.parent != found.path]
    assert sum("error" not in json.loads(line) for line in kept[0].read_text().splitlines()) == 2


def test_workers_of_ray_make_the_same_samples(tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    from graphs.evaluation.workers import over_workers

    long = {"question": "long " * 600, "answer": "no"}
    evaluation = load_evaluation(evaluation_at(tmp_path, [*ROWS[:8], long, *ROWS[8:]], **SUMS | MORE))
    items = load_items(evaluation, tmp_path)
    batches = [items[i : i + 3] for i in range(0, len(items), 3)]
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    torch.set_num_threads(max(1, cores // 2))  # as a worker's: matrix products round otherwise with other numbers
    request.addfinalizer(partial(torch.set_num_threads, threads))
    with opened([str(tiny_model)], tmp_path) as subject_of:
        here = list(answers.answered(subject_of(str(tiny_model)), evaluation, 0, batches, True))
    with over_workers(str(tiny_model), 2, tmp_path) as answer:
        assert list(answer(evaluation, 0, batches, True)) == here
        with pytest.raises(UsageError, match="rows.jsonl, line 9: .* the model reads 512"):
            list(answer(evaluation, 0, batches, False))
        for worker in answer.args[0]:  # type: ignore[attr-defined]
            ray.kill(worker)
        with pytest.raises(JuntoError, match="a worker of Ray has ended before it answered"):
            list(answer(evaluation, 0, batches, True))


# -- figures ----------------------------------------------------------------------------------------------


def test_numbers_and_extraction_by_hand() -> None:
    assert measures.same_number("first 3, then 1,000.0", ["1000"])
    assert not measures.same_number("no number", ["1"])
    wanted = Evaluation(name="e", kind="generate", data="-", target="t", extract=r"#### (\S+)")
    assert measures.extracted(wanted, "#### 1\n#### 22 apples") == "22"
    assert measures.extracted(wanted, "nothing") == ""


def test_pass_at_k_counts_the_samples_of_an_item() -> None:
    wanted = Evaluation(
        name="e", kind="generate", data="-", target="t", samples=2, pass_at=[1, 2], metrics=["contains"]
    )
    items = [{"id": str(i), "targets": ["y"]} for i in range(3)]
    texts = {"0": "yy", "1": "yn", "2": "nn"}
    samples = [{"id": i, "sample": k, "text": c, "tokens": 1} for i, text in texts.items() for k, c in enumerate(text)]
    scores = [{"id": s["id"], "sample": s["sample"]} | measures.scored(wanted, items[int(s["id"])], s) for s in samples]
    metrics = measures.aggregated(wanted, items, samples, scores)["metrics"]
    assert metrics["contains"]["value"] == metrics["pass@1"]["value"] == pytest.approx(0.5)
    assert metrics["pass@2"]["value"] == pytest.approx(2 / 3)
    assert metrics["contains"]["n"] == 3  # items, not samples: those of one item are not independent
    samples[0] = {"id": "0", "sample": 0, "error": "too long"}
    scores[0] = {"id": "0", "sample": 0}
    metrics = measures.aggregated(wanted, items, samples, scores)["metrics"]
    assert metrics["pass@2"]["value"] == 0.5 and metrics["pass@1"]["value"] == 0.5  # of two items, and of three


def test_parts_of_rouge_and_settings_of_bleu() -> None:
    wanted = Evaluation(
        name="e",
        kind="generate",
        data="-",
        target="t",
        metrics=["rouge", "bleu", "chrf"],
        rouge={"parts": ["recall", "precision", "f"], "beta": 2.0, "stem": True},
        bleu={"tokenize": "char", "smooth": "floor", "lowercase": True},
        chrf={"word_order": 2},
    )
    item = {"id": "0", "targets": ["running dogs"]}
    sample = {"id": "0", "sample": 0, "text": "runs dog all day", "tokens": 4}
    score = {"id": "0", "sample": 0} | measures.scored(wanted, item, sample)
    # both words by their stems: precision 2 of 4, recall 2 of 2, and F = 5 P R / (R + 4 P)
    assert score["rouge1_precision"] == 0.5 and score["rouge1_recall"] == 1.0
    assert score["rouge1"] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))
    metrics = measures.aggregated(wanted, [item], [sample], [score])["metrics"]
    assert "case:lc|eff:no|tok:char|smooth:floor" in metrics["bleu"]["signature"]
    assert "nw:2" in metrics["chrf"]["signature"] and metrics["rouge1_recall"]["value"] == 1.0


def test_seeds_are_measured_together_as_more_samples(tmp_path: Path, tiny_model: Path) -> None:
    settings = (
        SUMS | MORE | {"metrics": ["contains", "chrf", "rouge"], "samples": 2, "pass_at": [2], "extract": "[a-z]*"}
    )
    path = evaluation_at(tmp_path, ROWS, **settings)
    parts = run(path, [str(tiny_model)], seeds=[3, 5])
    assert [one.about["seed"] for one in parts] == [3, 5] and parts[0].path != parts[1].path
    union = compare.together(parts)
    rows = union.rows("samples")
    assert len({(row["id"], row["sample"]) for row in rows}) == len(rows) == 4 * len(ROWS)
    assert union.results["n"] == len(ROWS) and union.results["complete"]
    for name in ("rouge1", "rougeL"):
        each = [one.results["metrics"][name]["value"] for one in parts]
        assert union.results["metrics"][name]["value"] == pytest.approx(sum(each) / 2)
    texts = [measures.extracted(Evaluation(**settings), row["text"]) for row in rows]
    targets = {item["id"]: item["targets"] for item in union.rows("items")}
    chrf = text_metrics.chrf(texts, [targets[row["id"]] for row in rows])
    assert union.results["metrics"]["chrf"]["value"] == pytest.approx(chrf["value"])
    assert union.results["metrics"]["chrf"]["n"] == len(ROWS)
    names = [f"{one.path.parent.name}/{one.path.name}" for one in parts]
    assert compare.found("+".join(names), tmp_path / "runs").results == union.results
    found = compare.compared(parts[0], union)["metrics"]
    assert found["chrf"]["second"] == pytest.approx(chrf["value"])
    assert found["pass@2"]["first"] == pytest.approx(parts[0].results["metrics"]["pass@2"]["value"])
    assert found["pass@2"]["second"] == pytest.approx(union.results["metrics"]["pass@2"]["value"])
    other = run(evaluation_at(tmp_path, ROWS, **settings | {"max_tokens": 3}), [str(tiny_model)], seeds=[3])
    with pytest.raises(UsageError, match="differ in their evaluation"):
        compare.together([parts[0], other[0]])
    with pytest.raises(UsageError, match="is named twice"):
        compare.together([parts[0], parts[0]])
    with pytest.raises(UsageError, match="have no scores of their own"):
        rescore(union, ["metrics=[contains]"])
    # fewer are asked: what else lies in the folder is no part of it any more
    fewer = compare.together(run(path, [str(tiny_model)], seeds=[3, 5], limit=4))
    assert fewer.results["n"] == fewer.results["metrics"]["chrf"]["n"] == 4
    assert compare.compared(fewer, fewer)["metrics"]["chrf"]["difference"]["n"] == 4


def test_a_seed_decides_nothing_where_nothing_is_written(tmp_path: Path, tiny_model: Path) -> None:
    settings = {"name": "c", "kind": "choice", "data": "rows.jsonl", "prompt": "q", "choices": "o", "answer": "r"}
    path = evaluation_at(tmp_path, [{"q": "one", "o": ["a cat", "no"], "r": 1}], **settings)
    found = run(path, [str(tiny_model)], seeds=[1, 2])
    assert [one.about["seed"] for one in found] == [1]


def test_pass_at_k_of_two_metrics_is_not_compared(tmp_path: Path) -> None:
    two = []
    for name, metric in (("one", "number"), ("other", "contains")):
        scores = [{"id": str(i), "sample": k, metric: k == 0} for i in range(3) for k in range(2)]
        two.append(finished(tmp_path / name, scores, scores, {"pass@1": {"value": 0.5}}))
    assert "pass@1" not in compare.compared(*two)["metrics"]
    assert compare.compared(two[0], two[0])["metrics"]["pass@1"]["difference"]["value"] == 0.0


def test_nothing_is_in_every_text() -> None:
    wanted = Evaluation(name="e", kind="generate", data="-", target="t", metrics=["contains"])
    assert measures.scored(wanted, {"targets": [" "]}, {"text": "any"}) == {"contains": False}


def finished(folder: Path, samples: list[Any], scores: list[Any], metrics: Any = None) -> compare.Finished:
    folder.mkdir(parents=True)
    for name, rows in (("samples", samples), ("scores", scores)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare.Finished(folder, {"subject": folder.name, "judge": "one"}, {"metrics": metrics or {}})


def test_bits_per_byte_are_compared_over_the_corpus(tmp_path: Path) -> None:
    """Two documents of 4 and of 1,000 bytes: the mean of their own ratios would turn the comparison round."""
    losses, two = [(8.0, 500.0), (4.0, 700.0)], []
    for number, own in enumerate(losses):
        rows = [
            {"id": str(i), "sample": 0, "loglikelihood": -loss * math.log(2), "bytes": size}
            for i, (loss, size) in enumerate(zip(own, (4, 1000), strict=True))
        ]
        scores = [{"id": row["id"], "sample": 0} for row in rows]
        two.append(finished(tmp_path / str(number), rows, scores, {"bits_per_byte": {"value": 1}}))
    found = compare.compared(*two)["metrics"]["bits_per_byte"]
    assert (found["first"], found["second"]) == (pytest.approx(508 / 1004), pytest.approx(704 / 1004))
    assert found["difference"]["value"] == pytest.approx(196 / 1004)


def test_samples_of_one_item_are_one_win_and_length_is_that_of_the_text(tmp_path: Path) -> None:
    two = []
    for number, reward in enumerate((0.0, 1.0)):
        keys = [(str(i), k) for i in range(10) for k in range(8)]
        # the first half is won; the second writes the same, and has spent far more tokens on it
        samples = [{"id": i, "sample": k, "text": "same", "tokens": 10 + 1000 * number} for i, k in keys]
        scores = [{"id": i, "sample": k, "reward": reward if int(i) < 5 else -reward} for i, k in keys]
        two.append(finished(tmp_path / str(number), samples, scores))
    found = compare.compared(*two)
    assert found["win_rate"]["n"] == 10 and found["win_rate"]["value"] == 0.5
    assert found["win_rate"]["high"] - found["win_rate"]["low"] > 0.5
    assert found["win_rate_at_equal_length"]["value"] == pytest.approx(0.5)


def of_lengths(root: Path, more: list[int], won: list[bool]) -> dict[str, Any]:
    """Texts of 50 characters against texts of so many more, which win or lose."""
    two = []
    for number in (0, 1):
        sizes = [50 + number * size for size in more]
        samples = [{"id": str(i), "sample": 0, "text": "x" * size, "tokens": 1} for i, size in enumerate(sizes)]
        scores = [{"id": str(i), "sample": 0, "reward": float(number * (win or -1))} for i, win in enumerate(won)]
        two.append(finished(root / str(number), samples, scores))
    return compare.compared(*two)


@pytest.mark.parametrize(
    ("more", "won", "why"),
    [
        ([40] * 9, [True] * 8 + [False], ": one side's texts are always the longer ones"),
        ([-2, *range(40, 56, 2)], [False] + [True] * 8, " (95 % interval "),
        ([-9, *[30] * 20], [True] * 21, ": all of them end alike"),
    ],
)
def test_the_win_rate_at_equal_length_is_not_told_where_nothing_tells_it(
    tmp_path: Path, more: list[int], won: list[bool], why: str
) -> None:
    found = of_lengths(tmp_path, more, won)
    assert found["win_rate"]["value"] > 0.8 and "win_rate_at_equal_length" not in found
    assert found["note"].startswith(f"the win rate at equal length cannot be told from these items{why}")


def test_the_win_rate_at_equal_length_by_hand(tmp_path: Path) -> None:
    """Longer by ten, 24 of 30 are won; shorter by ten, 2 of 10: the odds 4 and 1/4 have their middle at 1."""
    found = of_lengths(tmp_path / "a", [10] * 30 + [-10] * 10, [True] * 24 + [False] * 6 + [True] * 2 + [False] * 8)
    assert found["win_rate"]["value"] == pytest.approx(26 / 40)
    assert found["win_rate_at_equal_length"]["value"] == pytest.approx(0.5, abs=1e-3)
    # one text of another length does not hide what the equal ones say
    found = of_lengths(tmp_path / "b", [1] + [0] * 39, [True] * 26 + [False] * 14)
    assert found["win_rate_at_equal_length"]["value"] == pytest.approx(25 / 39, abs=1e-3)


def test_the_detectable_difference() -> None:
    # (1.96 + 0.84) sqrt(0.3 / 100) = 0.153
    assert compare.detectable(100) == pytest.approx(0.1534, abs=1e-4)


def test_requirements() -> None:
    assert met(parsed("accuracy>=0.5"), {"accuracy": {"value": 0.5}})["met"]
    assert not met(parsed("loss < -1e-3"), {"loss": {"value": 0.0}})["met"]
    for text in ("accuracy", "accuracy = 1", "a >= b", "a >= 1.2.3"):
        with pytest.raises(UsageError, match="write it as"):
            parsed(text)
    with pytest.raises(UsageError, match='did you mean "accuracy"'):
        met(parsed("acuracy > 0"), {"accuracy": {"value": 1.0}})


# -- of a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/tiny``, which has all roles."""
    from graphs.align import run_align
    from graphs.recipe import load_recipe

    folder = tmp_path_factory.mktemp("evaluated")
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24},
        "backbone": {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"steps": 2, "batch_size": 2},
        "ppo": {"iterations": 1, "batch_size": 4, "max_tokens": 6},
        "evaluate": {"n": 4, "max_tokens": 6},
        "council": {"rounds": 2, "max_tokens_per_step": 6},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    run_align(load_recipe(folder / "recipe.yaml"), folder, folder / "runs", False, lambda event: None)
    return folder


def test_all_stages_of_a_run_and_its_council(trained: Path) -> None:
    root = trained / "runs"
    models = [f"{root}/tiny:{role}" for role in ("base", "sft", "policy", "council")]
    for name in (str(trained / "recipe.yaml"), str(root / "tiny")):
        found = list(run_evaluations([name], models, Asked(root, limit=3), lambda event: None))
        each = [compare.read(folder.path) for folder in found]
        assert [one.about["role"] for one in each] == ["base", "sft", "policy", "council"]
        for one in each:
            assert set(one.results["metrics"]) == {"solved", "reward", "length"}
            assert one.about["judge"] == each[0].about["judge"]
        with Engine.open(root / "tiny") as engine:
            items = {item["id"]: item for item in each[2].rows("items")}
            rows, scores = each[2].rows("samples"), each[2].rows("scores")
            rewards = engine.score([items[r["id"]]["prompt"] for r in rows], [r["text"] for r in rows])
        assert [score["reward"] for score in scores] == pytest.approx(rewards, abs=1e-5)
        assert each[3].rows("samples")[0]["council"]["experts"]


def test_another_prompt_of_a_recipe_is_another_question(trained: Path) -> None:
    recipe = trained / "recipe.yaml"
    before = prepare(str(recipe), Asked(trained / "runs")).items
    user, system = {"role": "user", "content": "4 4"}, {"role": "system", "content": "In French."}
    assert asked_id([user], "4 4") != asked_id([system, user], "4 4")
    assert len({item["id"] for item in before}) == len(before)
    with pytest.raises(UsageError, match="name=x: the prompts are those of the recipe's task; --set takes metrics"):
        prepare(str(recipe), Asked(trained / "runs", overrides=["name=x"]))


def test_another_split_of_a_recipe_can_be_asked(trained: Path) -> None:
    recipe = str(trained / "recipe.yaml")
    asked = {
        split: prepare(recipe, Asked(trained / "runs", overrides=[f"split={split}"]))
        for split in ("train", "validation", "test")
    }
    assert all(one.evaluation.split == split for split, one in asked.items())
    assert {item["question"] for item in asked["test"].items} == set(game24.test_puzzles())
    ids = [{item["id"] for item in one.items} for one in asked.values()]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    with pytest.raises(UsageError, match="split=dev: the task of .* there are train, validation, test"):
        prepare(recipe, Asked(trained / "runs", overrides=["split=dev"]))


def test_a_comparison_is_paired(trained: Path) -> None:
    root = trained / "runs"
    names = [f"{root}/tiny:sft", f"{root}/tiny:base"]
    sft, base = (
        compare.read(folder.path)
        for folder in run_evaluations([str(root / "tiny")], names, Asked(root, limit=4), lambda event: None)
    )
    found = compare.compared(sft, base)
    rewards = [{s["id"]: s["reward"] for s in one.rows("scores")} for one in (sft, base)]
    differences = [rewards[1][key] - rewards[0][key] for key in rewards[0]]
    assert found["n"] == 4
    assert found["metrics"]["reward"]["difference"]["value"] == pytest.approx(sum(differences) / 4)
    wins = sum(d > 0 for d in differences) / 4 + sum(d == 0 for d in differences) / 8
    assert found["win_rate"]["value"] == pytest.approx(wins)


def test_the_largest_disagreements_are_explained_on_the_page(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = trained / "runs"
    common = ["--runs-root", str(root)]
    for seed in ("7", "8"):  # one model twice: a few steps do not change what it writes
        asked = ["--model", f"{root}/tiny:sft", "--limit", "5", "--seed", seed]
        assert main(["eval", "run", str(root / "tiny"), *asked, *common]) == 0
    names = [one.name for one in compare.listed(root) if one.about["seed"] in (7, 8)]
    page = trained / "page.html"
    assert main(["eval", "report", *names, "--explain", "2", "--to", str(page), *common]) == 0
    first, second = (compare.found(name, root) for name in names)
    rewards = [{row["id"]: row["reward"] for row in one.rows("scores")} for one in (first, second)]
    chosen = disagreements(first, second, 2)
    sizes = [abs(rewards[0][item["id"]] - rewards[1][item["id"]]) for item, _, _ in chosen]
    assert sizes == sorted(sizes, reverse=True)
    files = sorted((second.path / "explanations").glob("*.json"))
    assert [file.stem.partition("-")[2] for file in files] == [item["id"] for item, _, _ in chosen]
    told = json.loads(files[0].read_text())
    assert told["margin"] == pytest.approx(sizes[0], abs=1e-4)
    assert "Why the judge prefers one answer" in page.read_text()


def test_general_ability_is_what_the_evaluations_say(trained: Path) -> None:
    root = trained / "runs"
    told: list[str] = []
    with Engine.open(root / "tiny") as engine:
        found = ability(engine, "sft", "policy", told.append)
        same = ability(engine, "sft", "sft", told.append)
    assert told[:2] == ["plain-text, sft", "plain-text, policy"]
    run_of = RunDir(root / "tiny")
    assert run_of.results("evaluate")["ability"]["knowledge"] == found["knowledge"]
    assert "General ability: perplexity of plain prose" in run_of.results("evaluate")["words"][-2]
    assert "General ability: questions of knowledge" in (run_of.path / "report.html").read_text()
    assert all(each["difference"]["value"] == each["difference"]["low"] == 0 for each in [same["plain-text"]])
    names, models = ["plain-text", "sense"], [f"{root}/tiny:sft", f"{root}/tiny:policy"]
    evaluated = [compare.read(f.path) for f in run_evaluations(names, models, Asked(root), lambda event: None)]
    by_name = {(one.about["name"], one.about["role"]): one.results["metrics"] for one in evaluated}
    for role in ("sft", "policy"):
        perplexity = by_name["plain-text", role]["token_perplexity"]["value"]
        assert found["plain-text"][role]["value"] == pytest.approx(perplexity, rel=1e-5)
        assert found["sense"][role]["value"] == by_name["sense", role]["accuracy_norm"]["value"]


def test_pairs_are_scored_by_the_reward_model(trained: Path) -> None:
    rows = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"{i} bad"} for i in range(8)]
    folder = trained / "pairs"
    folder.mkdir()
    path = evaluation_at(folder, rows, name="pairs", kind="pairs", data="rows.jsonl")
    (found,) = list(run_evaluations([str(path)], [f"{trained}/runs/tiny"], Asked(folder / "runs"), lambda event: None))
    one = compare.read(found.path)
    rewards = [row["rewards"] for row in one.rows("samples")]
    assert one.results["metrics"]["pair_accuracy"]["value"] == sum(a > b for a, b in rewards) / 8
    assert {"auc", "ece", "length_correlation"} <= set(one.results["metrics"])
    # another reward model under the same policy is another subject
    other = folder / "runs" / "other"
    shutil.copytree(trained / "runs" / "tiny", other)
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("name: tiny", "name: other"))
    with Engine.open(other) as engine:
        backbone = engine.backbone
        backbone.set_weights("reward", {n: w * 1.5 for n, w in backbone.weights("reward").items()})
        save_role(backbone, "reward", other / "adapters" / "reward")
    (again,) = list(run_evaluations([str(path)], [str(other)], Asked(folder / "runs"), lambda event: None))
    digests = [found.path.name.rpartition("-")[2] for found in (found, again)]
    assert digests[0] != digests[1]


# -- the verbs --------------------------------------------------------------------------------------------


def test_the_verbs(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = evaluation_at(tmp_path, ROWS, **SUMS | MORE)
    root = ["--runs-root", str(tmp_path / "runs")]
    assert main(["eval", "run", str(path), "--model", str(tiny_model), "--limit", "4", *root, "--json"]) == 0
    captured = capsys.readouterr()
    (found,) = json.loads(captured.out)["evaluations"]
    assert "4 of 16 items" in captured.err and "would often go unseen" in captured.err
    assert main(["eval", "ls", *root]) == 0
    assert "exact_match" in capsys.readouterr().out
    assert main(["eval", "score", found["name"], "--set", "metrics=[number]", *root]) == 0
    assert "number" in capsys.readouterr().out
    assert main(["eval", "score", found["name"], "--set", "temperature=0", *root]) == 2
    assert "the samples hang on temperature" in capsys.readouterr().err
    assert main(["eval", "show-prompt", str(path), *root]) == 0
    assert "What is 0 plus 0?" in capsys.readouterr().out
    required = ["--require", "number >= 2", "--limit", "4", "--set", "metrics=[number]"]
    assert main(["eval", "run", str(path), "--model", str(tiny_model), *required, *root]) == 1
    assert "number >= 2 is NOT met" in " ".join(capsys.readouterr().out.split())  # lines break at long names
    several = ["eval", "run", str(path), "plain-text", "--model", str(tiny_model), "--limit", "4", *root]
    assert main([*several, "--require", "exact_match >= 0"]) == 0  # plain-text has no such figure
    assert main([*several, "--require", "exact_mach >= 0"]) == 2
    assert 'did you mean "exact_match"?; what was measured is kept' in capsys.readouterr().err
    assert main(["eval", "run", str(path), "--model", str(tiny_model), "--seed", "1", "--limit", "4", *root]) == 0
    capsys.readouterr()
    names = [one["name"] for one in json.loads(_json(["eval", "ls", *root], capsys))["evaluations"]]
    names = [name for name in names if name.startswith("sums")]
    assert main(["eval", "compare", *names, *root]) == 0
    assert "4 items in common" in " ".join(capsys.readouterr().out.split())


def _json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--json"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval", "run", "game"], "eval run needs a model: --model RUN"),
        (["eval", "run", "gone.yaml", "--model", "embedded"], "gone.yaml: there is no such evaluation"),
        (["eval", "run", "gone", "--model", "embedded"], "gone is no evaluation; name a YAML file"),
        (["eval", "compare", "a"], "eval compare needs two evaluations"),
        (["eval", "compare", "a", "b"], "there is no evaluation 'a'"),
        (["eval", "run", "x.yaml", "--model", "m", "--require", "better"], "'better' is no requirement"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--runs-root", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_model_named_twice_and_a_role_that_is_not_there(
    tmp_path: Path, tiny_model: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(evaluation_at(tmp_path, ROWS, **SUMS | MORE))
    root = ["--runs-root", str(tmp_path / "runs")]
    assert main(["eval", "run", path, "--model", "m", "--model", "m", *root]) == 2
    assert "m is named twice" in capsys.readouterr().err
    assert main(["eval", "run", path, "--model", f"{tiny_model}:sft", *root]) == 3
    assert "has no role 'sft'; it has base" in capsys.readouterr().err
    assert main(["eval", "run", path, "--model", f"{trained}/runs/tiny:council", *root]) == 2
    assert "answers questions of its own task" in capsys.readouterr().err


def test_two_processes_do_not_write_one_evaluation(tmp_path: Path, tiny_model: Path) -> None:
    path = evaluation_at(tmp_path, ROWS[:2], **SUMS | MORE)
    (found,) = run(path, [str(tiny_model)])
    with RunDir(found.path).locked(), pytest.raises(UsageError, match="another process is working"):
        run(path, [str(tiny_model)])

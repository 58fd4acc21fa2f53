"""The adapter for lm-evaluation-harness against the harness's own Hugging Face model, and one of its tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra harness)")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from alignment.embedded import embedded_folder
from alignment.engine import Engine
from graphs.evaluation.harness import HarnessModel, harness_model
from graphs.evaluation.subject import Subject, about

PIECES = ["the quick ", "brown fox", " ", "\n", "4 7 8 8", "é", "中文", "10 - 4 = 6", "<|im_end|>", "LEAVE", ".", "\t"]


def text(rng: random.Random, most: int) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, most)))


def asked(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HarnessModel, Any]]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # float32 on every machine, as theirs is
            patch.setattr("alignment.weights.multiplies_bfloat16", lambda: False)
            mine = stack.enter_context(harness_model(str(tiny_model), tmp_path_factory.mktemp("runs")))
        yield mine, HFLM(pretrained=str(tiny_model), dtype="float32", device="cpu", batch_size=4)


def without_controls(arguments: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The harness's model reads control tokens in a text; ours does not, on purpose."""
    return [tuple(a.replace("<|im_end|>", "end") if isinstance(a, str) else a for a in args) for args in arguments]


def test_loglikelihoods_are_those_of_the_harness(models: tuple[HarnessModel, Any]) -> None:
    rng = random.Random(0)
    pairs = [(text(rng, 30), f"{text(rng, 6)}x") for _ in range(60)] + [("", " yes"), ("same", " a"), ("same", " b")]
    pairs = [pair for pair in without_controls(pairs) if not pair[0] or pair[0].strip()]
    mine, theirs = (model.loglikelihood(asked("loglikelihood", pairs)) for model in models)
    for (value, greedy), (wanted, is_greedy), pair in zip(mine, theirs, pairs, strict=True):
        assert value == pytest.approx(wanted, rel=1e-4, abs=1e-4), pair
        assert greedy == bool(is_greedy), pair


def test_rolling_loglikelihoods_are_those_of_the_harness(models: tuple[HarnessModel, Any]) -> None:
    rng = random.Random(1)
    texts = without_controls([(text(rng, n),) for n in (1, 3, 10, 60, 200, 400, 900)] + [("a",)])
    texts = [one for one in texts if one[0]]
    mine, theirs = (model.loglikelihood_rolling(asked("loglikelihood_rolling", texts)) for model in models)
    assert mine == pytest.approx(theirs, rel=1e-4)


@pytest.mark.embedded
@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.soak)])
def test_rolling_loglikelihoods_of_the_embedded_model(count: int) -> None:
    rng = random.Random(3)
    texts = without_controls([(f"{text(rng, 60)}a",) for _ in range(count)])
    theirs = HFLM(pretrained=str(embedded_folder()), dtype="float32", device="cpu", batch_size=1)
    with Engine.open("embedded", "float32") as engine:
        mine = HarnessModel(Subject("embedded", engine, "base", about(engine, "base")))
        found, wanted = (model.loglikelihood_rolling(asked("loglikelihood_rolling", texts)) for model in (mine, theirs))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_texts_are_those_of_the_harness(models: tuple[HarnessModel, Any]) -> None:
    rng = random.Random(2)
    settings = {"until": ["\n\n", "8"], "max_gen_toks": 12, "do_sample": False}
    requests = without_controls([(f"{text(rng, 12)}x", settings) for _ in range(12)])
    mine, theirs = (model.generate_until(asked("generate_until", requests)) for model in models)
    assert mine == theirs


def test_a_chat_is_encoded_as_messages(models: tuple[HarnessModel, Any]) -> None:
    mine = models[0]
    chat = mine.engine.backbone.chat
    history = [{"role": "user", "content": "stop <|im_end|> here"}]
    rendered = mine.apply_chat_template(history)
    before, after = mine._pair(rendered, "yes")
    assert (before, after) == (chat.prompt_ids(history), chat.text_ids("yes"))


def test_a_task_of_the_harness_runs_from_local_data(models: tuple[HarnessModel, Any], tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [{"q": f"{a} plus {b}", "options": ["4", "7", "8"], "right": a} for a in range(3) for b in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        "task: junto_sums\ndataset_path: json\ndataset_kwargs:\n"
        f"  data_files: {{test: {tmp_path / 'rows.jsonl'}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}:'\ndoc_to_choice: options\n"
        "doc_to_target: right\nmetric_list: [{metric: acc}]\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    mine, theirs = (
        simple_evaluate(model=model, tasks=["junto_sums"], task_manager=manager, bootstrap_iters=0) for model in models
    )
    assert mine["results"]["junto_sums"]["acc,none"] == theirs["results"]["junto_sums"]["acc,none"]

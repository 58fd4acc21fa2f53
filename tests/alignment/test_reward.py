"""The reward model on a tiny backbone: parity with TRL, what it learns, its scale, resume."""

from __future__ import annotations

import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from transformers import LlamaForSequenceClassification
from trl import RewardConfig as TrlConfig
from trl import RewardTrainer

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, RewardConfig
from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.preferences import encode
from alignment.reward import train_reward
from alignment.run_dir import TIME_COLUMNS, RunDir
from alignment.schedule import length_grouped

Row = dict[str, Any]
QUICK: dict[str, Any] = {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "learning_rate": 1e-2, "warmup_steps": 0}

LONGER = QUICK | {"steps": 40, "batch_size": 8, "learning_rate": 3e-3}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def pairs(n: int = 24) -> list[Row]:
    """The chosen answer says fox, the rejected one dog; lengths vary."""
    rng = random.Random(0)
    words = ["the", "quick", "brown", "4 7 8 8"]
    said = [" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(n)]
    return [{"prompt": user(f"{i}"), "chosen": f"{s} fox", "rejected": f"{s} dog"} for i, s in enumerate(said)]


def scored(n: int = 24) -> list[Row]:
    """The score is the number of foxes, times ten, plus a hundred."""
    return [{"prompt": [], "response": "a " + "fox " * (i % 4), "score": 100 + 10 * (i % 4)} for i in range(n)]


def backbone_of(model: Path) -> Backbone:
    torch.set_num_threads(1)
    return Backbone(BackboneConfig(model=str(model), quantization="none", compute_dtype="float32", lora={"rank": 4}))


def run_in(folder: Path) -> RunDir:
    run = RunDir(folder / "run")
    run.create("name: tiny\n", {})
    run.set_status("running")
    return run


def train(model: Path, run: RunDir, config: RewardConfig, rows: list[Row], report: Any = None, **more: Any) -> Backbone:
    backbone = backbone_of(model)
    train_reward(backbone, config, rows, rows[:8], run, 0, report or (lambda event: None), **more)
    return backbone


def rewards_of(backbone: Backbone, rows: list[Row]) -> torch.Tensor:
    """[2, N]: of the chosen and of the rejected, as the engine scores them."""
    with Engine(backbone) as engine:
        sides = [[row[side] for row in rows] for side in ("chosen", "rejected")]
        return torch.tensor([engine.score([row["prompt"] for row in rows], texts) for texts in sides])


def outcome(run: RunDir) -> Any:
    metrics = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in run.metrics()]
    return metrics, run.results("reward")


def test_the_loss_curve_is_that_of_trl(tiny_model: Path, tmp_path: Path) -> None:
    """Bradley-Terry on the same batches from the same weights: TRL's RewardTrainer is the reference."""
    disable_progress_bars()
    steps, size = 8, 4
    config = RewardConfig(loss="bradley_terry", **(QUICK | {"steps": steps, "batch_size": size}))
    rows = pairs()
    for i, row in enumerate(rows):
        row["margin"] = (i % 3) / 2
    backbone = backbone_of(tiny_model)
    examples, _ = encode(backbone.chat, rows, config, "training")
    backbone.add_role("reward", seed=1)  # as train_reward does for seed 0
    torch.nn.init.zeros_(backbone.heads["reward"].weight)
    ours = {name: value.clone() for name, value in backbone.weights("reward").items()}

    lora = LoraConfig(r=4, lora_alpha=32.0, lora_dropout=0.0, target_modules="all-linear", task_type="SEQ_CLS")
    theirs = get_peft_model(
        LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32), lora
    )
    missing = theirs.load_state_dict(
        {
            re.sub(r"(lora_[AB])\.weight", r"\1.default.weight", name): value
            for name, value in ours.items()
            if not name.startswith("head.")
        },
        strict=False,
    )
    assert not missing.unexpected_keys
    head = theirs.base_model.model.score.modules_to_save["default"]
    head.weight.data.copy_(ours["head.weight"])

    batches = length_grouped([e.tokens for e in examples], size, steps, "0/reward")
    in_order = [examples[i] for batch in batches for i in batch]
    trainer = RewardTrainer(
        model=theirs,
        args=TrlConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=steps,
            per_device_train_batch_size=size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0,
            adam_epsilon=1e-5,
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=None,
            train_sampling_strategy="sequential",
            bf16=False,
            activation_checkpointing=False,
            logging_steps=1,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            disable_tqdm=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(
            [{"chosen_ids": e.texts[0], "rejected_ids": e.texts[1], "margin": e.targets[0]} for e in in_order]
        ),
        processing_class=backbone.tokenizer,
    )
    trainer.train()
    want = [entry for entry in trainer.state.log_history if "loss" in entry]

    run = run_in(tmp_path)
    train(tiny_model, run, config, rows)
    got = run.metrics()
    assert len(want) == len(got) == steps
    for theirs_row, ours_row in zip(want, got, strict=True):
        assert ours_row["loss"] == pytest.approx(theirs_row["loss"], rel=1e-4, abs=1e-6)
        assert ours_row["margin"] == pytest.approx(theirs_row["margin"], rel=1e-3, abs=1e-4)
        assert ours_row["grad_norm"] == pytest.approx(theirs_row["grad_norm"], rel=1e-3)
        assert ours_row["learning_rate"] == pytest.approx(theirs_row["learning_rate"])
    assert got[-1]["loss"] < got[0]["loss"] / 2


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("loss", "rows"),
    [
        ({"loss": "margin_ranking"}, pairs()),
        ({"loss": "bradley_terry", "center_coef": 0.05, "normalize": "none"}, pairs()),
        ({"loss": "regression"}, scored()),
    ],
    ids=lambda x: x["loss"] if isinstance(x, dict) else "",
)
def test_killed_at_any_step_it_ends_the_same(tiny_model: Path, tmp_path: Path, loss: Row, rows: list[Row]) -> None:
    config = RewardConfig(**QUICK, **loss)
    straight = run_in(tmp_path / "straight")
    train(tiny_model, straight, config, rows)
    assert [row["step"] for row in straight.metrics()] == [1, 2, 3, 4, 5, 6]
    for number in (1, 3, 4, 6):
        run = run_in(tmp_path / str(number))

        def kill(event: Row, number: int = number) -> None:
            if event["step"] == number:
                raise Killed

        with pytest.raises(Killed):
            train(tiny_model, run, config, rows, kill)
        train(tiny_model, run, config, rows)
        assert outcome(run) == outcome(straight)


@pytest.mark.parametrize("loss", ["margin_ranking", "bradley_terry"])
def test_it_learns_to_order_pairs(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    run = run_in(tmp_path)
    config = RewardConfig(loss=loss, **LONGER)
    backbone = train(tiny_model, run, config, pairs())
    results = run.results("reward")
    assert results["pair_accuracy"]["value"] == 1 and results["auc"]["value"] > 0.9
    assert results["brier"]["value"] < 0.05 and results["reliability"][-1]["accuracy"] == 1
    rewards = rewards_of(backbone, pairs()[:8])
    assert rewards.mean().item() == pytest.approx(0, abs=1e-4) and rewards.std().item() == pytest.approx(1, abs=1e-4)


def test_it_may_start_from_the_sft_model(tiny_model: Path, tmp_path: Path) -> None:
    """With no step taken but one at a rate of almost nothing, the adapter is the SFT model's and the head is new."""
    backbone = backbone_of(tiny_model)
    backbone.add_role("sft", seed=0)
    for parameter in backbone.parameters("sft"):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    config = RewardConfig(start="sft", steps=1, learning_rate=1e-12)
    train_reward(backbone, config, pairs(8), pairs(8), run_in(tmp_path), 0, lambda event: None)
    sft, reward = backbone.weights("sft"), backbone.weights("reward")
    assert set(reward) > set(sft)
    assert all(torch.allclose(reward[name], sft[name], atol=1e-9) for name in sft)


def test_centring_keeps_rewards_around_zero(tiny_model: Path, tmp_path: Path) -> None:
    means = []
    for number, coefficient in enumerate((0.0, 1.0)):
        config = RewardConfig(loss="bradley_terry", normalize="none", center_coef=coefficient, **LONGER)
        backbone = train(tiny_model, run_in(tmp_path / str(number)), config, pairs())
        chosen, rejected = rewards_of(backbone, pairs())
        means.append(((chosen + rejected) ** 2).mean())
    assert means[1] < 0.2 * means[0]


def test_regression_learns_scores_in_their_own_unit(tiny_model: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    config = RewardConfig(loss="regression", normalize="none", **LONGER)
    backbone = train(tiny_model, run, config, scored())
    results = run.results("reward")
    assert results["pearson"]["value"] > 0.9 and results["spearman"]["value"] > 0.9
    assert results["mae_of_constant"] == 10 and results["mae"]["value"] < 5
    assert run.metrics()[0]["mae"] > 5 > run.metrics()[-1]["mae"]
    with Engine(backbone) as engine:
        rewards = engine.score([[]] * 4, [row["response"] for row in scored(4)])
    assert rewards == pytest.approx([100, 110, 120, 130], abs=10)


def test_texts_of_one_row_are_learned_as_rows_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    texts = ("4 7 8 8", "4 7 8 7", "4 7 7 8", "8 7 7 8")  # of one length, or batches of rows would hold one four times
    rows = [{"prompt": user("fox"), "response": text, "score": float(i)} for i, text in enumerate(texts)]
    together = {key: [row[of] for row in rows] for key, of in (("responses", "response"), ("scores", "score"))}
    losses = []
    for given, size in ((rows, 4), ([{"prompt": user("fox"), **together}], 1)):
        run = run_in(tmp_path / str(size))
        train(tiny_model, run, RewardConfig(loss="regression", **QUICK | {"batch_size": size}), given)
        losses.append([row["loss"] for row in run.metrics()] + [run.results("reward")["mae"]["value"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_reference_samples_have_mean_zero_and_deviation_one(tiny_model: Path, tmp_path: Path) -> None:
    texts = [f"the quick {i} 4 7 8 8" for i in range(9)]
    prompts = [user(str(i)) for i in range(9)]
    config = RewardConfig(normalize="reference", **QUICK)
    run = run_in(tmp_path)
    backbone = train(tiny_model, run, config, pairs(), reference=lambda: (prompts, texts))
    with Engine(backbone) as engine:
        rewards = torch.tensor(engine.score(prompts, texts))
    assert rewards.mean().item() == pytest.approx(0, abs=1e-4) and rewards.std().item() == pytest.approx(1, abs=1e-4)
    assert run.results("reward")["reference_samples"] == 9


def test_equal_rewards_are_centred_and_not_blown_up(tiny_model: Path, tmp_path: Path) -> None:
    config = RewardConfig(normalize="reference", **QUICK)
    train_on = pairs()
    backbone = train(tiny_model, run_in(tmp_path), config, train_on, reference=lambda: ([user("a")] * 3, ["b"] * 3))
    assert backbone.scales["reward"][0] == 1
    with Engine(backbone) as engine:
        assert engine.score([user("a")], ["b"]) == pytest.approx([0], abs=1e-5)


@pytest.mark.parametrize(
    ("config", "rows", "says"),
    [
        ({"loss": "bradley_terry"}, scored(), "training row 1: .*learns from pairs .* set reward.loss to regression"),
        ({"loss": "regression"}, pairs(), "this row is a pair; set reward.loss to bradley_terry or margin_ranking"),
        (
            {"loss": "regression"},
            [{"prompt": user("a"), "responses": ["b", "c"], "scores": [1.0]}],
            "not one score for",
        ),
        ({"loss": "regression"}, [{"prompt": user("a"), "responses": [], "scores": []}], "row 1: it has not one score"),
        ({"loss": "regression"}, [{"prompt": user("a"), "responses": "bc", "scores": [1.0, 2.0]}], "not one score for"),
        ({"loss": "regression"}, [{"prompt": user("a"), "response": "b"}], "give response and score, or lists"),
        ({}, [*pairs(), "a row"], "training row [0-9]+ of the task is no mapping but str"),
        ({"loss": "margin_ranking"}, [], "no rows to learn from; give data.pairs, or a reward.function"),
        (
            {},
            [{"prompt": user("a"), "chosen": "b", "rejected": "b ", "source": "mine.jsonl, line 7"}],
            "mine.jsonl, line 7: chosen and rejected are the same; drop the row",
        ),
    ],
)
def test_rows_of_another_kind_are_refused(tiny_model: Path, tmp_path: Path, config: Row, rows: list[Row], says: str):
    with pytest.raises(UsageError, match=says) as caught:
        train(tiny_model, run_in(tmp_path), RewardConfig(**QUICK, **config), rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"margin": 1.0}, {"center_coef": 0.1}])
def test_regression_has_no_margin_and_no_centring(change: Row) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} belongs to losses of pairs"):
        RewardConfig(loss="regression", **change)


# -- long rows --------------------------------------------------------------------------------------------


def long_row(tokens: int) -> Row:
    return {"prompt": user("4 " * (tokens // 2)), "chosen": "fox", "rejected": "dog", "source": "p.jsonl, line 3"}


def test_a_row_of_100_000_tokens_is_refused_left_out_or_cut(tiny_model: Path, tmp_path: Path) -> None:
    chat = backbone_of(tiny_model).chat
    rows = [*pairs(3), long_row(100_000)]
    with pytest.raises(UsageError) as caught:
        encode(chat, rows, RewardConfig(long_rows="refuse", max_length=64), "training")
    said = str(caught.value)
    assert said.startswith("1 of 4 training rows have more than reward.max_length (64) tokens (p.jsonl, line 3: 100,0")
    assert "raise reward.max_length, or set reward.long_rows to skip or cut" in said

    examples, [note] = encode(chat, rows, RewardConfig(long_rows="skip", max_length=64), "training")
    assert len(examples) == 3 and "were left out (p.jsonl, line 3: 100,0" in note

    examples, [note] = encode(chat, rows, RewardConfig(long_rows="cut", max_length=64), "training")
    assert "were cut (p.jsonl, line 3: 100,0" in note
    chosen, rejected = examples[3].texts
    assert len(chosen) <= 64 and len(rejected) <= 64 and chosen != rejected
    # the beginning of the prompt is gone; the template's tokens and both answers are whole
    assert chat.tokenizer.decode(chosen).startswith("<|im_start|>user\n") and chat.text(chosen).endswith("\nfox")
    assert chosen[: len(chosen) - len(chat.text_ids("fox"))] == rejected[: len(rejected) - len(chat.text_ids("dog"))]


def test_when_the_prompt_is_gone_the_answer_loses_its_end(tiny_model: Path) -> None:
    chat = backbone_of(tiny_model).chat
    row = {"prompt": user("4 4 4"), "chosen": "8 " * 40, "rejected": "9 " * 40}
    [example], _ = encode(chat, [row], RewardConfig(max_length=32), "training")
    header = chat.prompt_ids(user(""))
    assert all(len(text) == 32 and text[: len(header)] == header for text in example.texts)
    twins = [row, row | {"rejected": "8 " * 41, "source": "p.jsonl, line 9"}]
    examples, notes = encode(chat, twins, RewardConfig(max_length=32), "training")
    assert len(examples) == 1
    assert notes[1] == "1 training rows left out, whose chosen and rejected are the same once cut (p.jsonl, line 9)"


def test_the_run_says_what_was_cut(tiny_model: Path, tmp_path: Path) -> None:
    run, events = run_in(tmp_path), []
    train(tiny_model, run, RewardConfig(max_length=64, **QUICK), [*pairs(), long_row(300)], events.append)
    [note] = run.status()["stages"]["reward"]["notes"]
    assert note.startswith("1 of 25 training rows have more than reward.max_length (64) tokens and were cut")
    assert note in [event.get("message") for event in events]


# -- failures ---------------------------------------------------------------------------------------------


def test_per_pair_margins_reach_the_loss(tiny_model: Path) -> None:
    chat = backbone_of(tiny_model).chat
    rows = [row | extra for row, extra in zip(pairs(3), ({"margin": 3}, {"margin": None}, {}), strict=True)]
    assert [e.targets[0] for e in encode(chat, rows, RewardConfig(), "")[0]] == [3, 1, 1]
    assert [e.targets[0] for e in encode(chat, rows, RewardConfig(loss="bradley_terry"), "")[0]] == [3, 0, 0]
    assert [e.targets[0] for e in encode(chat, rows, RewardConfig(margin=0.5), "")[0]] == [3, 0.5, 0.5]


def test_a_checkpoint_holds_what_training_needs(tiny_model: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path)

    def keep(event: Row) -> None:
        if event["step"] == 5:
            shutil.copytree(run.path / "checkpoints" / "reward", tmp_path / "kept")

    train(tiny_model, run, RewardConfig(**QUICK), pairs(), keep)
    found = checkpoint.latest(tmp_path / "kept")
    assert found is not None and found.name == "step-000004"
    assert not (run.path / "checkpoints" / "reward").exists()
    assert math.isfinite(run.results("reward")["pair_accuracy"]["value"])

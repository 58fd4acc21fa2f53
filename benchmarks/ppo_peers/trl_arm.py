"""TRL's arm: PPOTrainer of TRL 1.12, ``python -m benchmarks.ppo_peers.trl_arm SETTINGS RESULT``.

Runs in the environment that ``benchmarks.ppo`` made for it, which has no part of Junto. As a fair expert would set
it up: a padding token that is not the end-of-text token (by default it is, and TRL then never trains the end), one
optimizer with a rate of its own for the fully trained value model, whose head starts at zero as in Junto, the faster
attention, no checkpoints, no sampling for show.

``per_device_train_batch_size`` is the whole batch and nothing is accumulated. With accumulation TRL 1.12 steps once
an epoch whatever ``num_mini_batches`` says (its pull request 2531); so it steps at every minibatch, as it should.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - belongs to the imports, in every arm
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.ppo_peers.task import Clock, length_reward, report

Settings = dict[str, Any]


class ResponseScores(nn.Module):
    """The reward of each row at every position, in the place of a model's hidden states."""

    def __init__(self, tokenizer: Any, prompts: list[list[int]], after: Any) -> None:
        super().__init__()
        self.tokenizer, self.prompts, self.after = tokenizer, prompts, after

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        found = []
        for ids, mask in zip(input_ids, attention_mask.bool(), strict=True):
            kept = ids[mask].tolist()
            start = next(len(prompt) for prompt in self.prompts if kept[: len(prompt)] == prompt)
            text = self.tokenizer.decode(kept[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found.append(length_reward(text))
        self.after(found)
        scores = torch.tensor(found, device=input_ids.device)
        return SimpleNamespace(hidden_states=[scores[:, None, None].expand(*input_ids.shape, 1)])


class LengthReward(nn.Module):
    """What PPOTrainer takes for a reward model: a function, so that no arm holds a model for it."""

    base_model_prefix = "reader"

    def __init__(self, reader: ResponseScores) -> None:
        super().__init__()
        self.reader, self.score = reader, nn.Identity()


class Trainer(PPOTrainer):
    """Its optimizer as Junto's, with a rate of its own for the value model where that is trained in full."""

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        settings: Settings = self.args.junto_settings
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate}
            for part, rate in (
                (self.policy_model, settings["learning_rate" if settings["peft"] else "full_learning_rate"]),
                (self.value_model, settings["full_learning_rate"]),
            )
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-5, weight_decay=0.0)
        return self.optimizer


class EndOfUpdate(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.enter("saving")


def run(settings: Settings) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    clock = Clock()
    ppo_trainer.batch_generation = clock.within("rollout", "scoring", ppo_trainer.batch_generation)
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.unk_token
    load = {"dtype": getattr(torch, settings["dtype"]), "attn_implementation": "eager"}
    policy = AutoModelForCausalLM.from_pretrained(settings["model"], **load)
    value = AutoModelForSequenceClassification.from_pretrained(settings["model"], num_labels=1, **load)
    nn.init.zeros_(value.score.weight)
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    scores: list[float] = []

    def after(found: list[float]) -> None:
        scores.extend(found)
        if len(scores) % settings["batch_size"] == 0:  # the last rows of an iteration: what follows is the update
            clock.enter("update")

    reader = ResponseScores(tokenizer, settings["prompt_ids"], after)
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=settings["batch_size"],
            gradient_accumulation_steps=1,
            num_mini_batches=settings["minibatches"],
            num_ppo_epochs=settings["epochs"],
            total_episodes=settings["iterations"] * settings["batch_size"],
            local_rollout_forward_batch_size=settings["rollout_rows"],
            response_length=settings["max_tokens"],
            temperature=settings["temperature"],
            kl_coef=settings["kl_coef"],
            lam=settings["lam"],
            stop_token="eos",
            missing_eos_penalty=None,
            gradient_checkpointing=False,
            bf16=False,  # autocast for float32 weights; here the weights have the dtype
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            num_sample_generations=0,
            disable_tqdm=True,
            seed=settings["seed"],
        )
        args.junto_settings = settings
        data = Dataset.from_dict({"input_ids": settings["prompt_ids"]})
        lora = LoraConfig(
            r=settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        trainer = Trainer(
            args=args,
            processing_class=tokenizer,
            model=policy,
            ref_model=None,  # with PEFT the adapter is switched off, without it TRL makes a copy
            reward_model=LengthReward(reader),
            value_model=value,
            train_dataset=data,
            eval_dataset=data.select(range(2)),
            callbacks=[EndOfUpdate(clock)],
            peft_config=lora if settings["peft"] else None,
        )
        steps = count_steps(trainer.optimizer)
        clock.enter("start")
        trainer.train()
        clock.stop()
    curve = [row for row in trainer.state.log_history if "objective/kl" in row]
    models = [m for m in (trainer.policy_model, trainer.value_model, trainer.ref_model) if m is not None]
    weights = {p.data_ptr(): p for model in models for p in model.parameters()}.values()
    moments = [t for state in trainer.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    return report(
        clock,
        [{"kl": row["objective/kl"], "reward": row["objective/scores"]} for row in curve],
        scores,
        updates=steps[0],
        held_bytes={
            "model": sum(p.numel() * p.element_size() for p in weights),
            "gradients": sum(p.numel() * p.element_size() for p in weights if p.requires_grad),
            "adam": sum(t.numel() * t.element_size() for t in moments),
        },
        trained_parameters=sum(p.numel() for p in weights if p.requires_grad),
    )


def count_steps(optimizer: Any) -> list[int]:
    """Steps that the inner optimizer truly takes, in a list of one, counted from now on."""
    steps = [0]

    def one_more(*_: Any) -> None:
        steps[0] += 1

    optimizer.optimizer.register_step_post_hook(one_more)
    return steps


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(run(settings)))


if __name__ == "__main__":
    main()

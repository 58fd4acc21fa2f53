"""Junto's arm: ``alignment.ppo`` on one backbone, ``python -m benchmarks.ppo_peers.junto_arm SETTINGS RESULT``."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ppo_peers.task import PROMPTS, Clock, length_reward, report

Settings = dict[str, Any]


def config_of(settings: Settings) -> Any:
    from alignment.config import PPOConfig

    same = ("iterations", "batch_size", "minibatches", "epochs", "max_tokens", "temperature", "kl_coef", "lam")
    return PPOConfig(
        **{name: settings[name] for name in same},
        micro_batch_size=settings["rows_per_forward"],
        learning_rate=settings["learning_rate"],
        value_learning_rate=settings["learning_rate"],
        missing_eos_penalty=0.0,  # the reward is length alone
        target_kl=None,  # no arm ends an iteration's epochs early: the same number of optimizer steps
    )


def backbone_of(settings: Settings) -> Any:
    from alignment.config import BackboneConfig, LoraSettings

    return BackboneConfig(
        model=settings["model"],
        quantization=settings["quantization"],
        compute_dtype=settings["dtype"],
        lora=LoraSettings(rank=settings["lora_rank"], alpha=settings["lora_alpha"]),
    )


def rows() -> list[dict[str, Any]]:
    return [
        {"id": str(i), "question": text, "prompt": [{"role": "user", "content": text}]}
        for i, text in enumerate(PROMPTS)
    ]


def prompt_ids(model: str) -> list[list[int]]:
    """The prompts as Junto reads them; the peers get these ids, so that all arms read the same."""
    from alignment.chat_format import ChatFormat
    from alignment.weights import load_tokenizer

    chat = ChatFormat(load_tokenizer(model))
    return [chat.prompt_ids(row["prompt"]) for row in rows()]


def run(settings: Settings, profile: str | None = None) -> dict[str, Any]:
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401 - belongs to the imports, in every arm

    from alignment import ppo
    from alignment.backbone import Backbone
    from alignment.engine import Engine
    from alignment.run_dir import RunDir
    from alignment.scoring import function_scorer

    torch.set_num_threads(settings["threads"])
    config = config_of(settings)
    clock = Clock()
    # where one phase ends and the next begins is known to the loop alone
    ppo.sample = clock.within("rollout", "scoring", ppo.sample)
    ppo.update = clock.within("update", "saving", ppo.update)
    backbone = Backbone(backbone_of(settings))
    backbone.add_role("sft", seed=0)  # LoRA starts as the base model, which is the reference of all arms
    asked = function_scorer(lambda prompt, response: length_reward(response), "length_reward")
    scores: list[float] = []

    def score(prompts: Any, responses: Any) -> list[float]:
        found = asked(prompts, responses)
        scores.extend(found)
        return found

    with tempfile.TemporaryDirectory() as folder, Engine(backbone) as engine:
        kept = RunDir(Path(folder))
        kept.create("", {})
        clock.enter("start")
        with engine.for_training():
            ppo.train_ppo(
                engine, config, rows(), lambda question, text: None, kept, settings["seed"], lambda event: None, score
            )
        clock.stop()
        curve = [row for row in kept.metrics() if row["stage"] == "ppo"]
        samples = [{key: row[key] for key in ("step", "question", "text", "reward")} for row in kept.samples()]
    trained = sum(p.numel() for role in ("policy", "value") for p in backbone.parameters(role))
    adapters = sum(p.numel() * 4 for role in backbone.roles[1:] for p in backbone.parameters(role))
    return report(
        clock,
        [{"kl": row["objective/kl"], "reward": row["objective/scores"]} for row in curve],
        scores,
        updates=sum(row["updates"] for row in curve),
        held_bytes={
            "model": sum(t.numel() * t.element_size() for t in model_tensors(backbone.causal_lm)),
            "adapters": adapters,
            "gradients": trained * 4,
            "adam": trained * 8,
        },
        trained_parameters=trained,
        mean_response_tokens=[row["val/response_length"] for row in curve],
        eos_rate=[row["eos_rate"] for row in curve],
        samples=[samples[0], samples[-1]],
    )


def model_tensors(model: Any) -> list[Any]:
    """Weights and buffers without the adapters, tied ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return list({t.data_ptr(): t for name, t in named if "lora_" not in name}.values())


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(run(settings)))


if __name__ == "__main__":
    main()

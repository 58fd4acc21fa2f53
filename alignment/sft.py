"""Supervised fine-tuning of the ``sft`` role, loss on the completion only."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars

from alignment import checkpoint
from alignment.adapter_files import load_start, save_role
from alignment.backbone import Backbone
from alignment.batch import encode_rows, pad, token_logprobs
from alignment.config import SFTConfig
from alignment.run_dir import Report, RunDir, StageLog
from alignment.sft_trainer import trainer_of
from alignment.weights import DTYPES

Row = dict[str, Any]


def train_sft(
    backbone: Backbone,
    config: SFTConfig,
    rows: list[Row],
    validation: list[Row],
    run: RunDir,
    seed: int,
    report: Report,
) -> None:
    """Trains the ``sft`` role, or goes on from the last checkpoint; writes ``adapters/sft`` and the results.

    It begins as a new adapter, or as that of another run (``config.start``). Full tuning trains the base model's own
    weights (``backbone`` holds them in float32), writes them to ``base/``, and leaves ``backbone`` on that base, with
    ``sft`` a LoRA adapter that changes nothing: later stages start from the tuned model, and the KL reference is that
    model.
    """
    disable_progress_bars()
    encoded = encode_rows(backbone.chat, rows, config.max_length)
    results: dict[str, Any] = {"method": config.method}
    role = "base" if config.method == "full" else "sft"
    if role == "sft":
        backbone.add_role("sft", seed=seed, tokens=config.virtual, text=encoded[0]["input_ids"])
        if config.start is not None:
            results["start_sha256"] = load_start(backbone, RunDir.open(config.start, run.path.parent))
    folder = run.path / "checkpoints" / "sft"
    resume = checkpoint.latest(folder)
    log = StageLog(run, "sft", config.steps, _step_of(resume), report)
    results["notes"] = notes(backbone, config)
    for note in results["notes"]:
        report({"stage": "sft", "step": _step_of(resume), "total": config.steps, "metrics": {}, "message": note})
    with backbone.role(role, train=True, checkpointing=config.gradient_checkpointing):
        parameters = backbone.parameters(role)
        results["trained_parameters"] = sum(p.numel() for p in parameters)
        trainer = trainer_of(backbone, config, encoded, folder, seed, log)
        for parameter in parameters:
            parameter.data = parameter.data.float()  # TRL casts adapters on a quantized model to bfloat16
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    results["tokens"] = trainer.state.num_input_tokens_seen
    del trainer, parameters
    if role == "base":
        backbone.rebase(_write_base(backbone, run.path / "base"))
        backbone.add_role("sft", seed=seed)
        message = f"the tuned model is written: {run.path / 'base'}"
        report({"stage": "sft", "step": config.steps, "total": config.steps, "metrics": {}, "message": message})
    results |= evaluate_sft(backbone, "sft", validation, config)
    results["adapter_sha256"] = save_role(backbone, "sft", run.path / "adapters" / "sft")
    log.done(results)
    shutil.rmtree(folder, ignore_errors=True)


def notes(backbone: Backbone, config: SFTConfig) -> list[str]:
    """What a reader of the figures should know about the settings on this machine."""
    found = []
    if config.optimizer.startswith("paged_") and backbone.device.type == "cpu":
        found.append(f"sft.optimizer {config.optimizer}: paging is inactive on a CPU, the moments stay in memory")
    return found


def _write_base(backbone: Backbone, folder: Path) -> Path:
    """The tuned model in the compute dtype and its tokenizer as a plain Hugging Face folder, renamed into place."""
    aside = folder.with_name("base.writing")
    for old in (aside, folder):  # an earlier one, of a training that was killed before it was done
        shutil.rmtree(old, ignore_errors=True)
    backbone.causal_lm.to(DTYPES[backbone.config.compute_dtype]).save_pretrained(aside)
    backbone.tokenizer.save_pretrained(aside)
    os.replace(aside, folder)
    return folder


def evaluate_sft(backbone: Backbone, role: str, rows: list[Row], config: SFTConfig) -> dict[str, float]:
    """Mean negative log-likelihood per completion token on held-out rows, in nats, and its exponential."""
    encoded = encode_rows(backbone.chat, rows, config.max_length)
    size = config.batch_size // config.gradient_accumulation
    total = count = 0.0
    with backbone.role(role), torch.no_grad():
        for start in range(0, len(encoded), size):
            batch = encoded[start : start + size]
            ids, mask = pad([row["input_ids"] for row in batch], backbone.chat.pad_id, rounded=True)
            wanted = pad([row["labels"] for row in batch], -100, rounded=True)[0] != -100
            total -= token_logprobs(backbone, ids, mask, wanted).sum().item()
            count += wanted.sum().item()
    loss = total / count
    return {"validation_loss": loss, "perplexity": math.exp(loss)}


def _step_of(path: Path | None) -> int:
    return int(path.name.removeprefix("step-")) if path else 0

"""Supervised fine-tuning of the ``sft`` role with TRL's SFTTrainer, loss on the completion only."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.batch import encode_completion, pad, token_logprobs
from alignment.config import SFTConfig
from alignment.errors import UsageError
from alignment.failures import refuse_nan
from alignment.rows import place_of
from alignment.run_dir import Report, RunDir, StageLog
from alignment.schedule import length_grouped

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
    """Trains the ``sft`` adapter, or goes on from the last checkpoint; writes ``adapters/sft`` and the results."""
    disable_progress_bars()
    encoded = _encode(backbone, rows, config.max_length)
    backbone.add_role("sft", seed=seed)
    folder = run.path / "checkpoints" / "sft"
    resume = checkpoint.latest(folder)
    log = StageLog(run, "sft", config.steps, _step_of(resume), report)
    with backbone.role("sft", train=True):
        trainer = _trainer(backbone, config, encoded, folder, seed, log)
        for parameter in backbone.parameters("sft"):
            parameter.data = parameter.data.float()  # TRL casts adapters on a quantized model to bfloat16
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    results = {"tokens": trainer.state.num_input_tokens_seen, **evaluate_sft(backbone, "sft", validation, config)}
    results["adapter_sha256"] = backbone.save_role("sft", run.path / "adapters" / "sft")
    log.done(results)
    shutil.rmtree(folder, ignore_errors=True)


def evaluate_sft(backbone: Backbone, role: str, rows: list[Row], config: SFTConfig) -> dict[str, float]:
    """Mean negative log-likelihood per completion token on held-out rows, in nats, and its exponential."""
    encoded = _encode(backbone, rows, config.max_length)
    total = count = 0.0
    with backbone.role(role), torch.no_grad():
        for start in range(0, len(encoded), config.batch_size):
            batch = encoded[start : start + config.batch_size]
            ids, mask = pad([row["input_ids"] for row in batch], backbone.chat.pad_id)
            wanted = pad([row["labels"] for row in batch], -100)[0] != -100
            logp, _ = token_logprobs(backbone, ids, mask, wanted)
            total -= logp.sum().item()
            count += wanted.sum().item()
    loss = total / count
    return {"validation_loss": loss, "perplexity": math.exp(loss)}


def _encode(backbone: Backbone, rows: list[Row], max_length: int) -> list[dict[str, list[int]]]:
    encoded = []
    for number, row in enumerate(rows, 1):
        ids, labels = encode_completion(backbone.chat, row)
        ids, labels = ids[:max_length], labels[:max_length]
        if all(label == -100 for label in labels):
            raise UsageError(
                f"{place_of(row, number, 'supervised')}: the prompt alone fills sft.max_length ({max_length} tokens); "
                "raise it, or set sft.long_rows to skip"
            )
        encoded.append({"input_ids": ids, "labels": labels})
    return encoded


def _step_of(path: Path | None) -> int:
    return int(path.name.removeprefix("step-")) if path else 0


def _trainer(
    backbone: Backbone, config: SFTConfig, encoded: list[dict[str, list[int]]], folder: Path, seed: int, log: StageLog
) -> SFTTrainer:
    lengths = [len(row["input_ids"]) for row in encoded]
    batches = length_grouped(lengths, config.batch_size, config.steps, f"{seed}/sft")
    aside = folder.with_name("sft.writing")
    shutil.rmtree(aside, ignore_errors=True)
    args = TrlConfig(
        output_dir=str(aside),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        weight_decay=0.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=config.checkpoint_every,
        include_num_input_tokens_seen="non_padding",
        seed=seed,
        data_seed=seed,
        bf16=False,
        max_length=None,
        activation_checkpointing=False,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=backbone.device.type == "cpu",
        dataloader_pin_memory=False,
        disable_tqdm=True,
        log_level="error",
        report_to=[],
    )
    trainer = _Trainer(
        backbone,
        model=backbone.model,
        args=args,
        train_dataset=Dataset.from_list([encoded[i] for batch in batches for i in batch]),
        processing_class=backbone.tokenizer,
        callbacks=[_Progress(folder, log)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Trainer(SFTTrainer):
    """TRL's trainer with logits at the positions that have a loss only; on a CPU TRL computes all of them, twice."""

    def __init__(self, backbone: Backbone, **settings: Any) -> None:
        self.backbone = backbone
        super().__init__(**settings)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood per completion token of the batch, in nats."""
        wanted = inputs["labels"] != -100
        logp, _ = token_logprobs(self.backbone, inputs["input_ids"], inputs["attention_mask"], wanted)
        loss = -logp.sum() / (wanted.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, {}) if return_outputs else loss


class _Progress(TrainerCallback):
    """Metrics to the run directory, and the trainer's checkpoints renamed into place when they are complete."""

    def __init__(self, folder: Path, log: StageLog) -> None:
        self.folder, self.log = folder, log
        self.tokens = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        refuse_nan("sft", state.global_step, *(logs[k] for k in ("loss", "grad_norm") if k in logs))
        metrics: dict[str, float] = {k: logs[k] for k in ("loss", "grad_norm", "learning_rate") if k in logs}
        self.log.step(state.global_step, metrics, state.num_input_tokens_seen - self.tokens)
        self.tokens = state.num_input_tokens_seen

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tokens = state.num_input_tokens_seen

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.publish(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.folder, state.global_step)
        self.log.saved(state.global_step)

"""TRL's SFTTrainer over a backbone: its settings from a recipe's, its loss at the completion's positions only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.batch import MULTIPLE, token_logprobs
from alignment.config import SFTConfig
from alignment.failures import refuse_nan
from alignment.packing import pack
from alignment.run_dir import StageLog
from alignment.schedule import length_grouped

Encoded = dict[str, list[int]]  # "input_ids" and "labels" of a row

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


def trl_settings(config: SFTConfig, seed: int, folder: Path, use_cpu: bool) -> TrlConfig:
    """TRL's settings for a recipe's; the rows come in their order, and checkpoints go under ``folder``."""
    return TrlConfig(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size // config.gradient_accumulation,
        gradient_accumulation_steps=config.gradient_accumulation,
        activation_checkpointing=False,  # TRL would leave a hook on the embedding; train_sft switches it itself
        optim=OPTIMIZERS[config.optimizer],
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
        pad_to_multiple_of=MULTIPLE,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=use_cpu,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        log_level="error",
        report_to=[],
    )


def rows_in_order(encoded: list[Encoded], config: SFTConfig, seed: int) -> Dataset:
    """The rows of all steps, one step after the other: a resumed training meets the same ones."""
    lengths = [len(row["input_ids"]) for row in encoded]
    batches = length_grouped(lengths, config.batch_size, config.steps, f"{seed}/sft")
    return Dataset.from_list([encoded[i] for batch in batches for i in batch])


def trainer_of(
    backbone: Backbone, config: SFTConfig, encoded: list[Encoded], folder: Path, seed: int, log: StageLog
) -> SFTTrainer:
    """The trainer of the role that is entered; complete checkpoints are renamed into ``folder``."""
    aside = folder.with_name("sft.writing")
    shutil.rmtree(aside, ignore_errors=True)

    def packed(rows: list[Encoded]) -> dict[str, Any]:
        ids, labels = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
        return pack(ids, labels, config.max_length, backbone.chat.pad_id)

    trainer = _Trainer(
        backbone,
        model=backbone.model,
        args=trl_settings(config, seed, aside, backbone.device.type == "cpu"),
        train_dataset=rows_in_order(encoded, config, seed),
        data_collator=packed if config.packing else None,
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
        """Mean negative log-likelihood per completion token of the step, in nats."""
        wanted = inputs["labels"] != -100
        with self.backbone.compute():
            logp = token_logprobs(
                self.backbone,
                inputs["input_ids"],
                inputs["attention_mask"],
                wanted,
                positions=inputs.get("position_ids"),
            )
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

"""The reward model: a LoRA adapter and a scalar head on the shared backbone, trained on pairs."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.batch import encode_scored, pad
from alignment.config import RewardConfig
from alignment.errors import JuntoError, UsageError
from alignment.losses import margin_ranking_loss
from alignment.run_dir import Report, RunDir, StageLog
from alignment.schedule import adamw, length_grouped, set_learning_rate
from alignment.statistics import auc, correlation, paired_bootstrap, wilson

Row = dict[str, Any]
Pair = tuple[list[int], list[int], float]  # ids of chosen and rejected, margin


def train_reward(
    backbone: Backbone,
    config: RewardConfig,
    rows: list[Row],
    validation: list[Row],
    run: RunDir,
    seed: int,
    report: Report,
) -> None:
    """Trains the ``reward`` adapter and head with the margin ranking loss, or goes on from the last checkpoint."""
    pairs = _encode(backbone, rows, config)
    backbone.add_role("reward", seed=seed + 1)
    optimizer = adamw(backbone.parameters("reward"), config.learning_rate)
    folder = run.path / "checkpoints" / "reward"
    start = 0
    if resume := checkpoint.latest(folder):
        weights, state = checkpoint.load(resume, {"adam": optimizer})
        backbone.set_weights("reward", weights)
        start = state["step"]
    log = StageLog(run, "reward", config.steps, start, report)
    lengths = [len(chosen) + len(rejected) for chosen, rejected, _ in pairs]
    batches = length_grouped(lengths, config.batch_size, config.steps, f"{seed}/reward")
    for step in range(start, config.steps):
        set_learning_rate(optimizer, config.learning_rate, step, config.steps, config.warmup_steps)
        metrics, tokens = _update(backbone, optimizer, [pairs[i] for i in batches[step]])
        if metrics["loss"] != metrics["loss"]:
            raise JuntoError(
                f"reward step {step + 1}: the loss is not a number; lower reward.learning_rate, raise "
                "reward.warmup_steps or set backbone.compute_dtype to float32, and run the same command again"
            )
        log.step(step + 1, metrics, tokens)
        if (step + 1) % config.checkpoint_every == 0:
            checkpoint.save(folder, step + 1, backbone.weights("reward"), {"adam": optimizer}, {})
            log.saved(step + 1)
    results = evaluate_reward(backbone, _encode(backbone, validation, config), config.batch_size)
    results["adapter_sha256"] = backbone.save_role("reward", run.path / "adapters" / "reward")
    log.done(results)
    shutil.rmtree(folder, ignore_errors=True)


def evaluate_reward(backbone: Backbone, pairs: list[Pair], batch_size: int) -> dict[str, Any]:
    """Held-out pair accuracy (a tie counts as wrong), AUC, correlation of reward with length in tokens.

    Also fits the scale of the head, so that rewards have mean 0 and standard deviation 1 on these texts.
    """
    backbone.scales["reward"] = (1.0, 0.0)
    scores: list[tuple[float, float]] = []
    with backbone.role("reward"), torch.no_grad():
        for start in range(0, len(pairs), batch_size):
            chosen, rejected, _ = _score(backbone, pairs[start : start + batch_size])
            scores += list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    flat = torch.tensor(scores)
    gain = 1.0 / flat.std().clamp(min=1e-6).item()
    backbone.scales["reward"] = (gain, -flat.mean().item() * gain)
    good, bad = [c for c, _ in scores], [r for _, r in scores]
    lengths = [len(ids) for pair in pairs for ids in pair[:2]]
    return {
        "pair_accuracy": wilson(sum(c > r for c, r in scores), len(scores)),
        "auc": paired_bootstrap(lambda i: auc([good[j] for j in i], [bad[j] for j in i]), len(scores)),
        "length_correlation": correlation([s for pair in scores for s in pair], lengths),
    }


def _update(backbone: Backbone, optimizer: torch.optim.Optimizer, batch: list[Pair]) -> tuple[dict[str, float], int]:
    with backbone.role("reward", train=True):
        chosen, rejected, tokens = _score(backbone, batch)
        loss = margin_ranking_loss(chosen, rejected, torch.tensor([pair[2] for pair in batch]))
        loss.backward()
        grad_norm = clip_grad_norm_(backbone.parameters("reward"), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    metrics = {
        "loss": loss.item(),
        "accuracy": (chosen > rejected).float().mean().item(),
        "margin": (chosen - rejected).mean().item(),
        "grad_norm": grad_norm.item(),
        "learning_rate": optimizer.param_groups[0]["lr"],
    }
    return metrics, tokens


def _score(backbone: Backbone, batch: list[Pair]) -> tuple[Tensor, Tensor, int]:
    rows = [pair[0] for pair in batch] + [pair[1] for pair in batch]
    ids, mask = pad(rows, backbone.chat.pad_id)
    hidden = backbone.hidden(ids, mask).last_hidden_state
    last = hidden[torch.arange(len(rows)), mask.sum(-1) - 1]
    scores = backbone.scalar("reward", last)
    return scores[: len(batch)], scores[len(batch) :], int(mask.sum())


def _encode(backbone: Backbone, rows: list[Row], config: RewardConfig) -> list[Pair]:
    pairs = []
    for number, row in enumerate(rows, 1):
        ids = [
            encode_scored(backbone.chat, row["prompt"], row[side])[: config.max_length]
            for side in ("chosen", "rejected")
        ]
        if ids[0] == ids[1]:
            raise UsageError(
                f"preference pair {number}: chosen and rejected are the same within reward.max_length "
                f"({config.max_length} tokens); raise it or drop the row"
            )
        pairs.append((ids[0], ids[1], float(row.get("margin", config.margin))))
    return pairs

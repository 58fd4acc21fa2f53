"""The reward model: a LoRA adapter and a scalar head on the shared backbone, trained on pairs or on scores."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from alignment import checkpoint, prefix_tree
from alignment.adapter_files import save_role
from alignment.backbone import Backbone
from alignment.batch import encode_scored, pad
from alignment.config import RewardConfig
from alignment.failures import refuse_nan
from alignment.flight import Usage
from alignment.losses import bradley_terry_loss, centring_penalty, margin_ranking_loss, regression_loss
from alignment.preferences import Example, Row, encode
from alignment.reward_metrics import pair_results, score_results
from alignment.run_dir import Report, RunDir, StageLog
from alignment.schedule import adamw, length_grouped, set_learning_rate
from alignment.scoring import Prompt
from alignment.text_scores import scores

Scale = tuple[float, float]  # gain and bias
Samples = Callable[[], tuple[Sequence[Prompt], Sequence[str]]]

HEAD_WIDTH = 64  # hidden size up to which the head of a regression has the whole learning rate


def train_reward(
    backbone: Backbone,
    config: RewardConfig,
    rows: list[Row],
    validation: list[Row],
    run: RunDir,
    seed: int,
    report: Report,
    reference: Samples | None = None,
) -> None:
    """Trains the ``reward`` adapter and head, or goes on from the last checkpoint; writes ``adapters/reward``.

    Rows are pairs ``{"prompt", "chosen", "rejected"}`` with an optional ``"margin"``, or, for the regression loss,
    ``{"prompt", "response", "score"}``, or ``{"prompt", "responses", "scores"}`` with many texts of one prompt. Texts
    of one prompt are computed as a tree: what they share, once. ``reference`` gives prompts and samples of the SFT
    model, the texts on which ``normalize: reference`` gives rewards mean 0 and standard deviation 1; it must give the
    same ones every time.
    """
    examples, notes = encode(backbone.chat, rows, config, "training")
    held_out, more = encode(backbone.chat, validation, config, "held-out")
    unit = _unit(examples, config)
    backbone.add_role("reward", seed=seed + 1, copy_of="sft" if config.start == "sft" else None)
    # SmolLM2's random head is two standard deviations of the scores off, and cost a dozen steps of pairs 0.3 nats each
    nn.init.zeros_(backbone.heads["reward"].weight)
    optimizer = adamw(_groups(backbone, config), config.learning_rate)
    folder = run.path / "checkpoints" / "reward"
    start = 0
    if resume := checkpoint.latest(folder):
        weights, state = checkpoint.load(resume, {"adam": optimizer})
        backbone.set_weights("reward", weights)
        start = state["step"]
    run.set_stage("reward", notes=[*notes, *more])
    log = StageLog(run, "reward", config.steps, start, report)
    for note in (*notes, *more):
        report({"stage": "reward", "step": start, "total": config.steps, "metrics": {}, "message": note})
    batches = length_grouped([e.tokens for e in examples], config.batch_size, config.steps, f"{seed}/reward")
    for step in range(start, config.steps):
        set_learning_rate(optimizer, config.learning_rate, step, config.steps, config.warmup_steps)
        metrics, tokens = _update(backbone, optimizer, [examples[i] for i in batches[step]], config, unit, step + 1)
        log.step(step + 1, metrics, tokens)
        if (step + 1) % config.checkpoint_every == 0:
            checkpoint.save(folder, step + 1, backbone.weights("reward"), {"adam": optimizer}, {})
            log.saved(step + 1)
    results = evaluate_reward(backbone, held_out, config, unit, reference)
    results["adapter_sha256"] = save_role(backbone, "reward", run.path / "adapters" / "reward")
    log.done(results)
    shutil.rmtree(folder, ignore_errors=True)


def _groups(backbone: Backbone, config: RewardConfig) -> list[dict[str, Any]]:
    """The adapter and the head. All texts' hidden states have one mean in common, and a step of Adam along it moves
    every score alike, by the learning rate times the mean's L1 norm: of SmolLM2's, a third of a standard deviation at
    5e-4, so that a regression would swing around its mean. Its rate falls with the width therefore (Yang et al. 2022,
    arXiv 2203.03466, table 3: output weights under Adam). Between the texts of a pair the mean cancels."""
    head = list(backbone.heads["reward"].parameters())
    adapter = backbone.parameters("reward")[: -len(head)]
    scale = min(1.0, HEAD_WIDTH / backbone.hidden_size) if config.loss == "regression" else 1.0
    return [{"params": adapter}, {"params": head, "scale": scale}]


def evaluate_reward(
    backbone: Backbone,
    examples: list[Example],
    config: RewardConfig,
    unit: Scale = (1.0, 0.0),
    reference: Samples | None = None,
) -> dict[str, Any]:
    """Fits the scale of the head as ``config.normalize`` says; returns the figures of ``reward_metrics`` on held-out
    examples. ``unit`` is the gain and bias from the head's own output to the unit of the scores (regression)."""
    backbone.scales["reward"] = (1.0, 0.0)
    raw = scores(backbone, [text for example in examples for text in example.texts], "reward", Usage())
    refuse_nan("reward", config.steps, *raw)  # a margin that is won by infinity has no loss and no gradient
    texts = raw
    if config.normalize == "reference":
        if reference is None:
            raise ValueError("normalize: reference needs samples of the SFT model")
        samples = [encode_scored(backbone.chat, p, r) for p, r in zip(*reference(), strict=True)]
        texts = scores(backbone, samples, "reward", Usage())
    gain, bias = backbone.scales["reward"] = unit if config.normalize == "none" else _standard(texts)
    lengths = [len(text) for example in examples for text in example.texts]
    if config.loss == "regression":
        predicted = [unit[0] * score + unit[1] for score in raw]  # in the unit of the scores, whatever the scale
        targets = [target for example in examples for target in example.targets]
        results = score_results(predicted, targets, lengths, constant=unit[1])
    else:
        rewards = [gain * score + bias for score in raw]
        results = pair_results(rewards[::2], rewards[1::2], lengths[::2] + lengths[1::2])
    if config.normalize == "reference":
        results["reference_samples"] = len(texts)
    return results


def _standard(scores: Sequence[float]) -> Scale:
    """Gain and bias that give these scores mean 0 and standard deviation 1; only the mean where all are equal."""
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    gain = 1.0 / spread if spread > 1e-6 else 1.0
    return gain, -statistics.fmean(scores) * gain


def _unit(examples: Sequence[Example], config: RewardConfig) -> Scale:
    """Regression learns scores less their mean, over their deviation: one learning rate then suits every unit."""
    if config.loss != "regression":
        return (1.0, 0.0)
    targets = [target for example in examples for target in example.targets]
    return (statistics.pstdev(targets) or 1.0, statistics.fmean(targets))


def _update(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    batch: list[Example],
    config: RewardConfig,
    unit: Scale,
    step: int,
) -> tuple[dict[str, float], int]:
    wanted = [(target - unit[1]) / unit[0] for example in batch for target in example.targets]
    targets = torch.tensor(wanted, device=backbone.device)
    with backbone.role("reward", train=True, checkpointing=config.gradient_checkpointing):
        found = _score(backbone, [example.texts for example in batch])
        loss, metrics = _loss(found.view(len(targets), -1).t(), targets, config)
        loss.backward()
        grad_norm = clip_grad_norm_(backbone.parameters("reward"), 1.0)
        refuse_nan("reward", step, loss.item(), grad_norm.item())
        optimizer.step()
        optimizer.zero_grad()
    if config.loss == "regression":
        metrics["mae"] *= unit[0]
    rate = optimizer.param_groups[0]["lr"]
    metrics = {"loss": loss.item(), **metrics, "grad_norm": grad_norm.item(), "learning_rate": rate}
    return metrics, sum(example.tokens for example in batch)


def _loss(scores: Tensor, targets: Tensor, config: RewardConfig) -> tuple[Tensor, dict[str, float]]:
    """The loss of scores [2, N] of pairs with margins [N], or of scores [1, N] with targets [N]; and what is logged."""
    if config.loss == "regression":
        return regression_loss(scores[0], targets), {"mae": (scores[0] - targets).abs().mean().item()}
    chosen, rejected = scores
    pair_loss = {"margin_ranking": margin_ranking_loss, "bradley_terry": bradley_terry_loss}[config.loss]
    loss = pair_loss(chosen, rejected, targets)
    if config.center_coef:
        loss = loss + config.center_coef * centring_penalty(chosen, rejected)
    return loss, {
        "accuracy": (chosen > rejected).float().mean().item(),
        "margin": (chosen - rejected).mean().item(),
    }


def _score(backbone: Backbone, groups: Sequence[Sequence[list[int]]]) -> Tensor:
    """float32 [N]: the head read at the last token of every text, one group after the other, under the role that is
    entered. The texts of a group are one sequence in which they share prefixes, where the model can see it so: steps of
    pairs of hh-rlhf, PandaLM and OASST took 0.5 to 0.6 of the time (by hand, one thread, AVX2, 2026-11-29)."""
    if any(len(texts) > 1 for texts in groups) and prefix_tree.knows(backbone):
        return backbone.scalar("reward", prefix_tree.ends_of(backbone, groups))
    ids, mask = pad([text for texts in groups for text in texts], backbone.chat.pad_id, rounded=True)
    hidden = backbone.hidden(ids, mask).last_hidden_state
    return backbone.scalar("reward", hidden[torch.arange(len(ids)), mask.sum(-1) - 1])

"""Policy gradients on one backbone: policy and value are adapters, the reference is the frozen SFT adapter.

REINFORCE, RLOO, A2C and PPO are one loop: sample, score, compute targets, update. They differ in ``rollout.targets``
and in the number of steps per batch, which the config fixes.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.batch import pad, token_logprobs
from alignment.config import PPOConfig
from alignment.decoding import Completion, Prompt
from alignment.engine import Engine
from alignment.errors import JuntoError
from alignment.losses import (
    adapt_kl_coef,
    adapt_kl_old_coef,
    explained_variance,
    kl_k2,
    masked_mean,
    policy_loss,
    value_loss,
)
from alignment.rollout import Experience, experience, response_logprobs, response_values, sample
from alignment.run_dir import Report, RunDir, StageLog
from alignment.schedule import adamw, batch_indices, set_learning_rate

Row = dict[str, Any]
Check = Callable[[str, str], bool | None]
Scorer = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
State = dict[str, Any]  # what changes besides weights: KL coefficients and the moments of the scores
SAMPLES_PER_ITERATION = 4


def train_ppo(
    engine: Engine,
    config: PPOConfig,
    prompts: list[Row],
    check: Check,
    run: RunDir,
    seed: int,
    report: Report,
    score: Scorer | None = None,
    corpus: str = "",
) -> None:
    """Trains ``policy`` (and ``value``) from ``sft`` and ``reward``, or goes on from the last iteration on disk.

    ``score`` gives the scalar of each response, by default the reward model's; ``corpus`` is the plain text of the
    pretraining loss. Raises JuntoError when the loss is not a number or the ratio blows up.
    """
    backbone = engine.backbone
    score = score or engine.score
    backbone.add_role("policy", seed=seed, copy_of="sft")
    optimizers = {"policy": adamw(backbone.parameters("policy"), config.learning_rate)}
    if config.has_value_model:
        backbone.add_role("value", seed=seed, copy_of="reward" if "reward" in backbone.roles else None)
        optimizers["value"] = adamw(backbone.parameters("value"), config.value_learning_rate)
    windows = plain_windows(backbone, corpus, config.ptx_length) if config.ptx_coef else []
    state: State = {"kl_coef": config.kl_coef, "kl_old_coef": config.kl_old_coef, "moments": [0, 0.0, 0.0]}
    folder = run.path / "checkpoints" / "ppo"
    start = 0
    if resume := checkpoint.latest(folder):
        tensors, kept = checkpoint.load(resume, {f"adam-{role}": o for role, o in optimizers.items()})
        for role in optimizers:
            own = {k.removeprefix(f"{role}:"): v for k, v in tensors.items() if k.startswith(f"{role}:")}
            backbone.set_weights(role, own)
        start, state = kept["step"], {name: kept[name] for name in state}
    run.rewind("samples.jsonl", "ppo", start)
    log = StageLog(run, "ppo", config.iterations, start, report)
    metrics: dict[str, float] = {}
    for iteration in range(start, config.iterations):
        for role, peak in (("policy", config.learning_rate), ("value", config.value_learning_rate)):
            if role in optimizers:
                set_learning_rate(optimizers[role], peak, iteration, config.iterations, config.warmup_iterations)
        rows = _rows(prompts, config, iteration, seed)
        # the random stream of a rollout is named by its number in the whole training
        seeds = [f"{seed}/ppo/{iteration * config.batch_size + i}" for i in range(config.batch_size)]
        completions = sample(engine, rows, config, seeds)
        raw = score([row["prompt"] for row in rows], [c.text for c in completions])
        scores = [s - config.missing_eos_penalty * (c.finish != "eos") for s, c in zip(raw, completions, strict=True)]
        if config.normalize_scores:
            state["moments"], scores = normalized(state["moments"], scores)
        exp = experience(backbone, rows, completions, scores, config, state["kl_coef"])
        metrics = _rollout_metrics(exp, completions, config, state) | _solved(rows, completions, check)
        metrics |= _update(backbone, optimizers, exp, config, state, windows, f"{seed}/{iteration}")
        _refuse_nonsense(metrics, config, iteration + 1)
        if config.kl_target is not None:
            kl = metrics["objective/kl"]
            state["kl_coef"] = adapt_kl_coef(state["kl_coef"], kl, config.kl_target, len(rows), config.kl_horizon)
        if config.surrogate == "kl_old":
            kl = metrics["policy/kl_old"]
            state["kl_old_coef"] = adapt_kl_old_coef(state["kl_old_coef"], kl, config.kl_old_target)
        log.step(iteration + 1, metrics, int(exp.mask.sum()))
        run.append("samples.jsonl", _samples(rows, completions, scores, check, iteration + 1))
        tensors = {f"{role}:{name}": w for role in optimizers for name, w in backbone.weights(role).items()}
        checkpoint.save(folder, iteration + 1, tensors, {f"adam-{role}": o for role, o in optimizers.items()}, state)
        log.saved(iteration + 1)
    if not metrics:  # killed after the last iteration, before the stage was closed
        metrics = [row for row in run.metrics() if row["stage"] == "ppo"][-1]
    results: dict[str, Any] = {"iterations": config.iterations} | {k: v for k, v in metrics.items() if "/" in k}
    for role in optimizers:
        results[f"{role}_sha256"] = backbone.save_role(role, run.path / "adapters" / role)
    log.done(results)
    shutil.rmtree(folder, ignore_errors=True)


def plain_windows(backbone: Backbone, corpus: str, length: int) -> list[list[int]]:
    """Plain text as windows of ``length`` tokens, the rest left out. Raises JuntoError when it fills none."""
    ids = backbone.chat.text_ids(corpus)
    windows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
    if not windows:
        raise JuntoError(
            f"the corpus of the pretraining loss has {len(ids)} tokens, fewer than ppo.ptx_length ({length}); "
            "give more text, or lower ptx_length"
        )
    return windows


def normalized(moments: Sequence[float], scores: Sequence[float]) -> tuple[list[float], list[float]]:
    """Running count, mean and sum of squared deviations (Welford 1962) with ``scores`` taken in, and the scores
    less the new mean over the new deviation."""
    count, mean, squares = moments
    for score in scores:
        count += 1
        before = score - mean
        mean += before / count
        squares += before * (score - mean)
    deviation = max((squares / max(count - 1, 1)) ** 0.5, 1e-6)
    return [count, mean, squares], [(score - mean) / deviation for score in scores]


def _rows(prompts: list[Row], config: PPOConfig, iteration: int, seed: int) -> list[Row]:
    """The prompts of an iteration, the samples of one prompt next to each other."""
    k = config.samples_per_prompt
    index = batch_indices(len(prompts), config.batch_size // k, iteration, f"{seed}/prompts")
    return [prompts[i] for i in index for _ in range(k)]


def _update(
    backbone: Backbone,
    optimizers: dict[str, torch.optim.Optimizer],
    exp: Experience,
    config: PPOConfig,
    state: State,
    windows: list[list[int]],
    seed: str,
) -> dict[str, float]:
    """Epochs of minibatches. Forward and backward of one role before the other's: see ``alignment.backbone``."""
    rows = list(range(len(exp.ids)))
    shuffle = random.Random(seed)
    steps: list[dict[str, float]] = []
    for _ in range(config.epochs):
        shuffle.shuffle(rows)
        for part in range(config.minibatches):
            batch = exp.rows(torch.tensor(rows[part :: config.minibatches]))
            plain = [windows[i] for i in shuffle.sample(range(len(windows)), min(config.ptx_batch_size, len(windows)))]
            step = _policy_step(backbone, optimizers["policy"], batch, config, state, plain)
            if "value" in optimizers:
                step |= _value_step(backbone, optimizers["value"], batch, config)
            steps.append(step)
        if config.target_kl is not None and steps[-1]["policy/approxkl_avg"] > config.target_kl:
            break
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]} | {"updates": len(steps)}


def _micro(batch: Experience, config: PPOConfig) -> list[Experience]:
    size = config.micro_batch_size or len(batch.ids)
    return [batch.rows(part) for part in torch.arange(len(batch.ids)).split(size)]


def _policy_step(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    batch: Experience,
    config: PPOConfig,
    state: State,
    plain: list[list[int]],
) -> dict[str, float]:
    tokens = batch.response.sum()
    clip, kl_old = (config.clip_range, 0.0) if config.surrogate == "clip" else (None, state["kl_old_coef"])
    sums: dict[str, float] = {}
    with backbone.role("policy", train=True):
        for part in _micro(batch, config):
            mask = part.response.float()
            logp, entropy = response_logprobs(
                backbone, part.ids, part.mask, part.response, config.temperature, config.entropy_coef > 0
            )
            surrogate, stats = policy_loss(logp, part.logp, part.advantages, mask, clip, kl_old, tokens)
            bonus = (entropy * mask).sum() / tokens
            loss = surrogate - config.entropy_coef * bonus
            if config.kl_penalty == "loss":
                loss = loss + state["kl_coef"] * (kl_k2(logp, part.ref_logp) * mask).sum() / tokens
            loss.backward()
            found = {"loss/policy_avg": surrogate, "policy/entropy_avg": bonus} | {
                _STATS[name]: value for name, value in stats.items()
            }
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        if plain:
            sums["loss/ptx_avg"] = _ptx(backbone, plain, config)
        norm = clip_grad_norm_(backbone.parameters("policy"), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return sums | {"policy/grad_norm": norm.item()}


_STATS = {
    "ratio": "val/ratio",
    "approxkl": "policy/approxkl_avg",
    "clipfrac": "policy/clipfrac_avg",
    "kl_old": "policy/kl_old",
}


def _ptx(backbone: Backbone, plain: list[list[int]], config: PPOConfig) -> float:
    """Adds the gradient of gamma E[-log pi(x)] on plain text: InstructGPT (arXiv 2203.02155), equation 2."""
    ids, mask = pad(plain, backbone.chat.pad_id)
    wanted = mask.bool()
    wanted[:, 0] = False
    logp, _ = token_logprobs(backbone, ids, mask, wanted)
    loss = -logp.sum() / wanted.sum()
    (config.ptx_coef * loss).backward()
    return loss.item()


def _value_step(
    backbone: Backbone, optimizer: torch.optim.Optimizer, batch: Experience, config: PPOConfig
) -> dict[str, float]:
    tokens, total = batch.response.sum(), 0.0
    with backbone.role("value", train=True):
        for part in _micro(batch, config):
            values = response_values(backbone, part.ids, part.mask, part.response)
            mask = part.response.float()
            loss = value_loss(values, part.values, part.returns, mask, config.value_clip_range, tokens)
            (config.value_coef * loss).backward()
            total += loss.item()
        clip_grad_norm_(backbone.parameters("value"), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return {"loss/value_avg": total}


def _refuse_nonsense(metrics: dict[str, float], config: PPOConfig, iteration: int) -> None:
    remedy = (
        "lower ppo.learning_rate, raise ppo.kl_coef or set backbone.compute_dtype to float32, and run the same "
        "command again; the last checkpoint is intact"
    )
    if any(value != value for value in metrics.values()):
        raise JuntoError(f"ppo iteration {iteration}: a loss is not a number; {remedy}")
    if metrics["val/ratio"] > config.max_ratio:
        raise JuntoError(
            f"ppo iteration {iteration}: the mean ratio of new to old policy is {metrics['val/ratio']:.1f}, above "
            f"ppo.max_ratio ({config.max_ratio}); {remedy}"
        )


def _rollout_metrics(
    exp: Experience, completions: Sequence[Completion], config: PPOConfig, state: State
) -> dict[str, float]:
    """Names as in OpenAI's lm-human-preferences and TRL. ``objective/kl`` is nats per sequence."""
    kl = ((exp.logp - exp.ref_logp) * exp.response).sum(-1).mean().item()
    scores = exp.scores.mean().item()
    found = {
        "objective/kl": kl,
        "objective/kl_coef": state["kl_coef"],
        "objective/entropy": masked_mean(exp.entropy, exp.response).item(),
        "objective/non_score_reward": -state["kl_coef"] * kl,
        "objective/rlhf_reward": scores - state["kl_coef"] * kl,
        "objective/scores": scores,
        "val/response_length": sum(c.tokens for c in completions) / len(completions),
        "eos_rate": sum(c.finish == "eos" for c in completions) / len(completions),
    }
    if config.has_value_model:
        explained = explained_variance(exp.values, exp.returns, exp.response.float())
        found["val/explained_variance"] = explained.item()
    return found


def _solved(rows: Sequence[Row], completions: Sequence[Completion], check: Check) -> dict[str, float]:
    verdicts = [check(row["question"], c.text) for row, c in zip(rows, completions, strict=True)]
    return {} if None in verdicts else {"solved": sum(map(bool, verdicts)) / len(verdicts)}


def _samples(
    rows: Sequence[Row], completions: Sequence[Completion], scores: Sequence[float], check: Check, step: int
) -> list[Row]:
    return [
        {
            "stage": "ppo",
            "step": step,
            "arm": "policy",
            "id": row["id"],
            "question": row["question"],
            "text": completion.text,
            "reward": score,
            "solved": check(row["question"], completion.text),
        }
        for row, completion, score in list(zip(rows, completions, scores, strict=True))[:SAMPLES_PER_ITERATION]
    ]

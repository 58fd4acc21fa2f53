"""Policy gradients on one backbone: policy and value are adapters, the reference is the frozen SFT adapter.

REINFORCE, RLOO, A2C and PPO are one loop: sample, score, compute targets, update. They differ in ``rollout.targets``
and in the number of steps per batch, which the config fixes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from alignment import checkpoint
from alignment.adapter_files import save_role
from alignment.backbone import Backbone
from alignment.config import PPOConfig
from alignment.engine import Engine
from alignment.errors import JuntoError
from alignment.losses import adapt_kl_coef, adapt_kl_old_coef, explained_variance, masked_mean
from alignment.rollout import Experience, Rollout, assemble, measure, sample
from alignment.run_dir import Report, RunDir, StageLog
from alignment.schedule import adamw, batch_indices, set_learning_rate
from alignment.scoring import Scorer
from alignment.update import State, update

Row = dict[str, Any]
Check = Callable[[str, str], bool | None]
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
    gold: Scorer | None = None,
) -> None:
    """Trains ``policy`` (and ``value``) from ``sft`` and ``reward``, or goes on from the last iteration on disk.

    ``score`` gives the scalar of each response, by default the reward model's; ``gold`` a scalar that is recorded and
    enters no loss; ``corpus`` is the plain text of the pretraining loss. Under ``accelerate launch`` every process
    makes ``batch_size`` rollouts, the update is that of all of them together, and the first process alone writes.
    Raises JuntoError when a loss is not a number or the ratio blows up.
    """
    backbone = engine.backbone
    world = PartialState(cpu=backbone.device.type == "cpu")
    score = score or engine.score
    backbone.add_role("policy", seed=seed, copy_of="sft")
    optimizers = {"policy": adamw(backbone.parameters("policy"), config.learning_rate)}
    if config.has_value_model:
        learned = "reward" in backbone.roles
        backbone.add_role("value", seed=seed, copy_of="reward" if learned else None)
        if not learned:  # a head that knows nothing should say nothing
            torch.nn.init.zeros_(backbone.heads["value"].weight)
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
    world.wait_for_everyone()
    log = None
    if world.is_main_process:
        run.rewind("samples.jsonl", "ppo", start)
        log = StageLog(run, "ppo", config.iterations, start, report)
    metrics: dict[str, float] = {}
    for iteration in range(start, config.iterations):
        for role, peak in (("policy", config.learning_rate), ("value", config.value_learning_rate)):
            if role in optimizers:
                set_learning_rate(optimizers[role], peak, iteration, config.iterations, config.warmup_iterations)
        total = config.batch_size * world.num_processes
        rows = _rows(prompts, config, total, iteration, seed)
        # the random stream of a rollout is named by its number in the whole training
        seeds = [f"{seed}/ppo/{iteration * total + i}" for i in range(total)]
        mine = slice(world.process_index * config.batch_size, (world.process_index + 1) * config.batch_size)
        completions = sample(engine, rows[mine], config, seeds[mine])
        raw = score([row["prompt"] for row in rows[mine]], [c.text for c in completions])
        scores = [s - config.missing_eos_penalty * (c.finish != "eos") for s, c in zip(raw, completions, strict=True)]
        rollouts = gather_object(measure(backbone, rows[mine], completions, scores, config))
        scores = [rollout.score for rollout in rollouts]
        if config.normalize_scores:
            state["moments"], scores = normalized(state["moments"], scores)
        exp = assemble(rollouts, scores, config, state["kl_coef"], backbone.chat.pad_id)
        texts = [backbone.chat.text(rollout.ids) for rollout in rollouts]
        verdicts = [check(row["question"], text) for row, text in zip(rows, texts, strict=True)]
        metrics = _rollout_metrics(exp, rollouts, config, state)
        if None not in verdicts:
            metrics["solved"] = sum(map(bool, verdicts)) / total
        golds: list[Any] = [None] * total
        if gold is not None:
            golds = gold([row["prompt"] for row in rows], texts)
            metrics["objective/gold"] = sum(golds) / total
        metrics |= update(backbone, optimizers, exp, config, state, windows, f"{seed}/{iteration}", iteration + 1)
        _refuse_a_blown_ratio(metrics["val/ratio"], config, iteration + 1)
        if config.kl_target is not None:
            kl = metrics["objective/kl"]
            state["kl_coef"] = adapt_kl_coef(state["kl_coef"], kl, config.kl_target, total, config.kl_horizon)
        if config.surrogate == "kl_old":
            kl = metrics["policy/kl_old"]
            state["kl_old_coef"] = adapt_kl_old_coef(state["kl_old_coef"], kl, config.kl_old_target)
        if log is not None:
            log.step(iteration + 1, metrics, int(exp.mask.sum()))
            run.append("samples.jsonl", _samples(rows, texts, scores, verdicts, golds, iteration + 1))
            tensors = {f"{role}:{name}": w for role in optimizers for name, w in backbone.weights(role).items()}
            moments = {f"adam-{role}": o for role, o in optimizers.items()}
            checkpoint.save(folder, iteration + 1, tensors, moments, state)
            log.saved(iteration + 1)
    if log is not None:
        if not metrics:  # killed after the last iteration, before the stage was closed
            metrics = [row for row in run.metrics() if row["stage"] == "ppo"][-1]
        results: dict[str, Any] = {"iterations": config.iterations} | {k: v for k, v in metrics.items() if "/" in k}
        for role in optimizers:
            results[f"{role}_sha256"] = save_role(backbone, role, run.path / "adapters" / role)
        log.done(results)
        shutil.rmtree(folder, ignore_errors=True)
    world.wait_for_everyone()


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


def _rows(prompts: list[Row], config: PPOConfig, total: int, iteration: int, seed: int) -> list[Row]:
    """The prompts of an iteration, the samples of one prompt next to each other."""
    k = config.samples_per_prompt
    index = batch_indices(len(prompts), total // k, iteration, f"{seed}/prompts")
    return [prompts[i] for i in index for _ in range(k)]


def _refuse_a_blown_ratio(ratio: float, config: PPOConfig, iteration: int) -> None:
    if ratio > config.max_ratio:
        raise JuntoError(
            f"ppo iteration {iteration}: the mean ratio of new to old policy is {ratio:.1f}, above ppo.max_ratio "
            f"({config.max_ratio}); lower ppo.learning_rate or raise ppo.kl_coef, and run the same command again (this "
            "stage starts over, finished ones are kept)"
        )


def _rollout_metrics(exp: Experience, rollouts: Sequence[Rollout], config: PPOConfig, state: State) -> dict[str, float]:
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
        "val/response_length": sum(len(r.ids) for r in rollouts) / len(rollouts),
        "eos_rate": sum(r.finish == "eos" for r in rollouts) / len(rollouts),
    }
    if config.has_value_model:
        explained = explained_variance(exp.values, exp.returns, exp.response.float())
        found["val/explained_variance"] = explained.item()
    return found


def _samples(
    rows: Sequence[Row],
    texts: Sequence[str],
    scores: Sequence[float],
    verdicts: Sequence[bool | None],
    golds: Sequence[float | None],
    step: int,
) -> list[Row]:
    shown = list(zip(rows, texts, scores, verdicts, golds, strict=True))[:SAMPLES_PER_ITERATION]
    return [
        {
            "stage": "ppo",
            "step": step,
            "arm": "policy",
            "id": row["id"],
            "question": row["question"],
            "text": text,
            "reward": score,
            "solved": solved,
        }
        | ({} if gold is None else {"gold": gold})
        for row, text, score, solved, gold in shown
    ]

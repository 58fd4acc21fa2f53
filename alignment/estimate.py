"""What a training will need before a weight is loaded: bytes by what holds them, for each stage.

Weights, adapters, gradients and moments follow from the architecture's shapes. Activations, attention, logits and
temporaries are counted by running one step of the stage's real code on fake tensors (``alignment.shapes``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from alignment.backbone import Backbone
from alignment.batch import width_of
from alignment.config import BackboneConfig, PPOConfig, RewardConfig, SFTConfig
from alignment.footprint import Batch, evaluation_bytes, moment_bytes, nbytes, sampling_bytes, step_bytes, weight_bytes
from alignment.lean import copy_bytes
from alignment.packing import bins
from alignment.schedule import length_grouped
from alignment.shapes import empty_backbone
from alignment.text_scores import SCORE_ROWS


@dataclass(frozen=True)
class Memory:
    """Bytes of one stage. ``total`` is the highest sum at any moment: not every part stands at that moment.

    ``weights``: the base model in its storage; ``adapters``: of all roles that the stage holds, and heads;
    ``gradients``, ``moments``: of what is trained; ``activations``: kept for the backward pass, attention and a
    prefix's keys and values among them; ``logits``: kept for the loss; ``working``: temporaries (dequantized weights,
    float32 copies of logits and their gradients); ``kv_cache``: of sampling; ``runtime``: tokenizer, allocator and
    libraries.
    """

    weights: int
    adapters: int
    gradients: int
    moments: int
    activations: int
    logits: int
    working: int
    kv_cache: int
    runtime: int
    total: int

    def parts(self) -> dict[str, int]:
        return asdict(self)


# What allocator and libraries keep beside the tensors: on a CPU the median of measured peak less the rest, over the ten
# cells of ``benchmarks.tuning`` (2026-11-23, two threads; from 379 to 696 MB); on CUDA not measured.
RUNTIME = {"cpu": 470_000_000, "cuda": 0}


def sft_batches(lengths: Sequence[int], losses: Sequence[int], config: SFTConfig, seed: int) -> list[Batch]:
    """Every forward of a supervised training, from the rows' lengths and numbers of completion tokens."""
    part = config.batch_size // config.gradient_accumulation
    found = []
    for step in length_grouped(lengths, config.batch_size, config.steps, f"{seed}/sft"):
        for start in range(0, len(step), part):
            rows = step[start : start + part]
            wanted = sum(losses[i] for i in rows)
            if config.packing:
                groups = bins([lengths[i] for i in rows], config.max_length)
                width = max(sum(lengths[rows[i]] for i in group) for group in groups)
                found.append(Batch(len(groups), width_of(width), wanted, packed=True))
            else:
                found.append(Batch(len(rows), width_of(max(lengths[i] for i in rows)), wanted))
    return found


def reward_batches(tokens: Sequence[int], config: RewardConfig, seed: int) -> list[Batch]:
    """Every forward of a reward model's training, from the tokens of each example's texts as one tree."""
    steps = length_grouped(tokens, config.batch_size, config.steps, f"{seed}/reward")
    return [scored([tokens[i] for i in rows]) for rows in steps]


def scored(lengths: Sequence[int]) -> Batch:
    """A forward of texts, or trees of texts, that get scalars."""
    return Batch(len(lengths), width_of(max(lengths)), 0)


def sft_memory(
    config: BackboneConfig, sft: SFTConfig, batches: Sequence[Batch], held_out: Sequence[Batch], device: str = "cpu"
) -> Memory:
    """The supervised stage at its largest step, or at its evaluation where that needs more."""
    full = sft.method == "full"
    backbone = empty_backbone(config, master_weights=full, device=device)
    if not full:
        with torch.device("meta"):
            backbone.add_role("sft", seed=0, tokens=sft.virtual)
    role = "base" if full else "sft"
    evaluation = _forwards(backbone, role, held_out, device)
    return _stage(backbone, {role: batches}, evaluation, device, sft.optimizer, sft.gradient_checkpointing)


def reward_memory(
    config: BackboneConfig,
    reward: RewardConfig,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    device: str = "cpu",
) -> Memory:
    """The reward model's stage, with the ``sft`` adapter beside it."""
    backbone = _with_roles(config, ("sft", "reward"), device)
    evaluation = _forwards(backbone, "reward", held_out, device)
    return _stage(backbone, {"reward": batches}, evaluation, device, checkpointing=reward.gradient_checkpointing)


def ppo_memory(
    config: BackboneConfig, ppo: PPOConfig, prompts: Sequence[int], learned: bool, device: str = "cpu"
) -> Memory:
    """The policy's stage, where every response is as long as it may be. ``prompts``: tokens of the prompts;
    ``learned``: the reward is a model on this backbone, not a function."""
    value = ("value",) if ppo.has_value_model else ()
    backbone = _with_roles(config, ("sft", *(("reward",) if learned else ()), "policy", *value), device)
    steps, forwards = ppo_batches(ppo, max(prompts), learned)
    moments = sum(moment_bytes(backbone.parameters(role), "adamw") for role in steps)
    peaks = [_forwards(backbone, role, [batch], device) for role, batch in forwards]
    cache, sampling = sampling_bytes(backbone, "policy", ppo.batch_size, max(prompts) + ppo.max_tokens, device)
    if backbone.config.quantization != "none" and device == "cpu":
        sampling += copy_bytes(backbone)  # for its time the layers' weights are unpacked
    others = moments + max(*peaks, sampling)
    return _stage(backbone, steps, others, device, "adamw", ppo.gradient_checkpointing, cache)


def ppo_batches(ppo: PPOConfig, prompt: int, learned: bool) -> tuple[dict[str, list[Batch]], list[tuple[str, Batch]]]:
    """The batches of a policy step and of a value step; and the forwards without gradients that follow the sampling,
    with their roles. All prompts have ``prompt`` tokens, and responses all that they may."""
    width, length = width_of(prompt) + width_of(ppo.max_tokens), ppo.max_tokens
    minibatch = math.ceil(ppo.batch_size / ppo.minibatches)
    rows = min(ppo.micro_batch_size or minibatch, minibatch)
    measured = min(ppo.micro_batch_size or ppo.batch_size, ppo.batch_size)
    entropy = "grad" if ppo.entropy_coef else "value"
    steps = {"policy": [Batch(rows, width, rows * length, entropy=entropy)]}
    forwards = [(role, Batch(measured, width, measured * length, entropy="value")) for role in ("policy", "sft")]
    if ppo.ptx_coef:
        steps["policy"].append(Batch(ppo.ptx_batch_size, ppo.ptx_length, ppo.ptx_batch_size * (ppo.ptx_length - 1)))
    if ppo.has_value_model:
        steps["value"] = [Batch(rows, width, rows * length)]
        forwards.append(("value", Batch(measured, width, measured * length)))
    if learned:
        forwards.append(("reward", Batch(min(SCORE_ROWS, ppo.batch_size), width, 0)))
    return steps, forwards


def _with_roles(config: BackboneConfig, roles: Sequence[str], device: str) -> Backbone:
    backbone = empty_backbone(config, master_weights=False, device=device)
    with torch.device("meta"):
        for role in roles:
            backbone.add_role(role, seed=0)
    return backbone


def _forwards(backbone: Backbone, role: str, batches: Sequence[Batch], device: str) -> int:
    """Peak of forwards without gradients."""
    return max((evaluation_bytes(backbone, role, batch, device) for batch in largest(batches)), default=0)


def _stage(
    backbone: Backbone,
    trained: Mapping[str, Sequence[Batch]],
    others: int,
    device: str,
    optimizer: str = "adamw",
    checkpointing: bool = False,
    kv_cache: int = 0,
) -> Memory:
    """``trained``: the batches of every role that is trained; ``others``: the peak of what is not a training step."""
    weights = weight_bytes(backbone)
    adapters = sum(nbytes(p) for name in backbone.roles[1:] for p in backbone.parameters(name))
    moments = sum(moment_bytes(backbone.parameters(role), optimizer) for role in trained)
    runtime = RUNTIME[device]
    steps = [
        step_bytes(backbone, role, batch, device, checkpointing) | {"gradients": _gradients(backbone, role)}
        for role, batches in trained.items()
        for batch in largest(batches)
    ]
    step = max(steps, key=lambda one: one["peak"])
    return Memory(
        weights=weights,
        adapters=adapters,
        gradients=step["gradients"],
        moments=moments,
        activations=step["activations"],
        logits=step["logits"],
        working=max(0, step["peak"] - step["activations"] - step["logits"] - step["gradients"]),
        kv_cache=kv_cache,
        runtime=runtime,
        total=weights + adapters + runtime + max(moments + step["peak"], others),
    )


def _gradients(backbone: Backbone, role: str) -> int:
    return sum(nbytes(p) for p in backbone.parameters(role))


def largest(batches: Sequence[Batch]) -> list[Batch]:
    """The batches that may need most: the most tokens, and the most positions with a loss."""
    if not batches:
        return []
    most = [
        max(batches, key=lambda b: (b.rows * b.tokens, b.losses, b.tokens)),
        max(batches, key=lambda b: (b.losses, b.rows * b.tokens, b.tokens)),
    ]
    return list(dict.fromkeys(most))


def storage(config: BackboneConfig, sft: SFTConfig) -> str:
    """How the base model's linear layers are stored, in words."""
    if sft.method == "full":
        return f"float32 for training, {config.compute_dtype} after"
    return {"none": config.compute_dtype, "int8": "int8", "nf4": "nf4 with double quantization"}[config.quantization]


def model_parameters(config: BackboneConfig) -> int:
    """Parameters of the base model, a tied embedding once."""
    return sum(p.numel() for p in empty_backbone(config, master_weights=False, device="cpu").causal_lm.parameters())


def trained_parameters(config: BackboneConfig, sft: SFTConfig) -> int:
    backbone = empty_backbone(config, master_weights=False, device="cpu")
    if sft.method == "full":
        return sum(p.numel() for p in backbone.parameters("base"))
    with torch.device("meta"):
        backbone.add_role("sft", seed=0, tokens=sft.virtual)
    return sum(p.numel() for p in backbone.parameters("sft"))

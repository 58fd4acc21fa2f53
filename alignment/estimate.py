"""What a training will need before a weight is loaded: bytes by what holds them, for each stage.

Weights, adapters, gradients and moments follow from the architecture's shapes. Activations, attention, logits and
temporaries are counted by running one step of the stage's real code on fake tensors (``alignment.shapes``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from alignment.backbone import Backbone
from alignment.batch import width_of
from alignment.config import BackboneConfig, RewardConfig, SFTConfig
from alignment.packing import bins
from alignment.schedule import length_grouped
from alignment.shapes import Held, Quantized, empty_backbone, faked, linear_layers


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once: rows [B] of tokens [T], of which ``losses`` positions get logits."""

    rows: int
    tokens: int
    losses: int
    packed: bool = False


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
# cells of ``benchmarks.tuning`` (2026-11-23, two threads; from 495 to 1,127 MB); on CUDA not measured.
RUNTIME = {"cpu": 840_000_000, "cuda": 0}


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


def reward_batches(examples: Sequence[Sequence[int]], config: RewardConfig, seed: int) -> list[Batch]:
    """Every forward of a reward model's training, from the lengths of each example's texts: two of a pair, one of a
    scored text."""
    steps = length_grouped([sum(texts) for texts in examples], config.batch_size, config.steps, f"{seed}/reward")
    return [scored([n for i in rows for n in examples[i]]) for rows in steps]


def scored(lengths: Sequence[int]) -> Batch:
    """A forward of texts that get a scalar each."""
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
    return _stage(backbone, role, sft.optimizer, batches, held_out, device, sft.gradient_checkpointing)


def reward_memory(
    config: BackboneConfig, batches: Sequence[Batch], held_out: Sequence[Batch], device: str = "cpu"
) -> Memory:
    """The reward model's stage, with the ``sft`` adapter beside it."""
    backbone = empty_backbone(config, master_weights=False, device=device)
    with torch.device("meta"):
        for role in ("sft", "reward"):
            backbone.add_role(role, seed=0)
    return _stage(backbone, "reward", "adamw", batches, held_out, device, checkpointing=False)


def _stage(
    backbone: Backbone,
    role: str,
    optimizer: str,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    device: str,
    checkpointing: bool,
) -> Memory:
    trained = backbone.parameters(role)
    weights = weight_bytes(backbone)
    adapters = sum(nbytes(p) for name in backbone.roles[1:] for p in backbone.parameters(name))
    moments = moment_bytes(trained, optimizer)
    runtime = RUNTIME[device]
    fixed = weights + adapters + runtime
    steps = [step_bytes(backbone, role, batch, device, checkpointing) for batch in largest(batches)]
    step = max(steps, key=lambda one: one["peak"])
    evaluation = max((evaluation_bytes(backbone, role, batch, device) for batch in largest(held_out)), default=0)
    gradients = sum(nbytes(p) for p in trained)
    return Memory(
        weights=weights,
        adapters=adapters,
        gradients=gradients,
        moments=moments,
        activations=step["activations"],
        logits=step["logits"],
        working=max(0, step["peak"] - step["activations"] - step["logits"] - gradients),
        kv_cache=0,
        runtime=runtime,
        total=fixed + max(moments + step["peak"], evaluation),
    )


def largest(batches: Sequence[Batch]) -> list[Batch]:
    """The batches that may need most: the most tokens, and the most positions with a loss."""
    if not batches:
        return []
    most = [
        max(batches, key=lambda b: (b.rows * b.tokens, b.losses, b.tokens)),
        max(batches, key=lambda b: (b.losses, b.rows * b.tokens, b.tokens)),
    ]
    return list(dict.fromkeys(most))


# -- what stands all the time -------------------------------------------------------------------------------


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def weight_bytes(backbone: Backbone) -> int:
    """The base model in its storage. 4 bits: half a byte a weight, a byte of scale for 64, a float32 for 256 scales
    (double quantization); 8 bits: a byte a weight, a float32 of scale a row."""
    model = backbone.causal_lm
    quantized = [m for m in linear_layers(model).values() if isinstance(m, Quantized)]
    apart = {id(m.weight) for m in quantized}
    own = {id(p): p for n, p in model.named_parameters() if "lora_" not in n and id(p) not in apart}
    total = sum(nbytes(p) for p in own.values())
    for layer in quantized:
        size = layer.weight.numel()
        if backbone.config.quantization == "nf4":
            scales = math.ceil(size / 64)
            total += math.ceil(size / 2) + scales + 4 * math.ceil(scales / 256)
        else:
            total += size + 4 * layer.out_features
    return total


def moment_bytes(trained: Sequence[Tensor], optimizer: str) -> int:
    """Two moments of each trained parameter, in float32; with an 8-bit optimizer in a byte each and a float32 of
    scale for 256, for tensors of at least 4,096 elements."""
    total = 0
    for parameter in trained:
        size = parameter.numel()
        eight = optimizer.endswith("8bit") and size >= 4096
        total += 2 * (size + 4 * math.ceil(size / 256)) if eight else 8 * size
    return total


# -- what a step holds --------------------------------------------------------------------------------------


def step_bytes(backbone: Backbone, role: str, batch: Batch, device: str, checkpointing: bool) -> dict[str, int]:
    """Bytes of one forward and backward beside weights, adapters and moments: kept ``activations`` and ``logits``,
    and the ``peak`` of everything, gradients included."""
    mode = faked(backbone, device)
    if checkpointing:
        settings = {"use_reentrant": False, "preserve_rng_state": False}
        backbone.causal_lm.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    with backbone.role(role, train=True), mode, Held(_tensors(backbone)) as held:
        with backbone.compute():
            states = _states(backbone, batch)
            activations = held.now
            loss = _loss(backbone, role, states, batch)
            del states
        kept = held.now
        loss.backward()
        del loss
        for parameter in backbone.parameters(role):
            parameter.grad = None
    if checkpointing:
        backbone.causal_lm.activation_checkpointing_disable()
        backbone.causal_lm.disable_input_require_grads()
    return {"activations": activations, "logits": max(0, kept - activations), "peak": held.peak}


def evaluation_bytes(backbone: Backbone, role: str, batch: Batch, device: str) -> int:
    """Peak of a forward without gradients."""
    mode = faked(backbone, device)
    with torch.no_grad(), backbone.role(role), mode, Held(_tensors(backbone)) as held, backbone.compute():
        _loss(backbone, role, _states(backbone, batch), batch)
    return held.peak


def _tensors(backbone: Backbone) -> list[Tensor]:
    modules = (backbone.model, *backbone.heads.values())
    return [t for module in modules for t in (*module.parameters(), *module.buffers())]


def _states(backbone: Backbone, batch: Batch) -> Tensor:
    ids = torch.zeros((batch.rows, batch.tokens), dtype=torch.long, device=backbone.device)
    if batch.packed:
        return backbone.hidden_packed(ids, torch.zeros_like(ids))
    return backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state


def _loss(backbone: Backbone, role: str, states: Tensor, batch: Batch) -> Tensor:
    """The operations of ``alignment.batch.token_logprobs``, or of the reward's score, at as many positions."""
    if role in backbone.heads:
        return backbone.scalar(role, states[:, -1]).sum()
    count = min(batch.losses, batch.rows * (batch.tokens - 1))
    place = torch.zeros((count,), dtype=torch.long, device=states.device)
    logp = backbone.logits(states[:, :-1].flatten(0, 1)[place]).log_softmax(-1)
    return -logp.gather(-1, place.unsqueeze(-1)).sum() / count


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

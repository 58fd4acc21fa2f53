"""What a recipe will need on this machine, stage by stage, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignment.batch import encode_completion, encode_rows, width_of
from alignment.chat_format import ChatFormat
from alignment.estimate import (
    Memory,
    ppo_batches,
    ppo_memory,
    reward_batches,
    reward_memory,
    scored,
    sft_batches,
    sft_memory,
    storage,
    trained_parameters,
)
from alignment.footprint import Batch
from alignment.machine import free_memory
from alignment.preferences import encode
from alignment.probe import probe, probe_decoding
from alignment.rows import fit_lengths
from alignment.weights import load_tokenizer
from graphs.recipe import Recipe, load_task


@dataclass(frozen=True)
class Lengths:
    """Tokens of the recipe's rows: what a stage computes depends on nothing else of them."""

    sft: dict[str, list[tuple[int, int]]]  # of a split: tokens, tokens with a loss
    reward: dict[str, list[int]]  # of a split: tokens of the tree of an example's texts; empty where untrained
    prompts: list[int]  # tokens of the prompts that the policy answers


def read_lengths(recipe: Recipe, base: Path) -> Lengths:
    """Reads the task's data and the tokenizer."""
    task = load_task(recipe.task, base)
    data = task.load(task.Options(**recipe.data), recipe.seed, base)
    chat = ChatFormat(load_tokenizer(recipe.backbone.model))
    config = recipe.sft
    sft = {}
    for split, rows in data.sft.items():
        tokens = [len(encode_completion(chat, row)[0]) for row in rows]
        rows, _ = fit_lengths(rows, tokens, config.max_length, config.long_rows, "sft", split)
        encoded = encode_rows(chat, rows, config.max_length)
        sft[split] = [(len(row["input_ids"]), sum(label != -100 for label in row["labels"])) for row in encoded]
    pairs = data.pairs if trains_reward(recipe) else {"train": [], "validation": []}
    reward = {
        split: [example.tokens for example in encode(chat, rows, recipe.reward, split)[0]]
        for split, rows in pairs.items()
        if rows
    }
    prompts = [len(chat.prompt_ids(row["prompt"])) for row in data.prompts["train"]] if trains_policy(recipe) else []
    return Lengths(sft, reward, prompts)


def trains_policy(recipe: Recipe) -> bool:
    return recipe.stop_after not in ("sft", "reward")


def trains_reward(recipe: Recipe) -> bool:
    return recipe.stop_after != "sft" and recipe.reward.function is None


def estimate(recipe: Recipe, base: Path) -> dict[str, Any]:
    """Memory and time of each stage, whether it fits, and what to change where it does not.

    Memory is in bytes: ``stages[i]["memory"]`` as ``alignment.estimate.Memory``; time in seconds, from layers of the
    model's shape that are timed here and now.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else free_memory()
    lengths = read_lengths(recipe, base)
    memory = memory_of(recipe, lengths, device)
    peak = max(stage.total for stage in memory.values())
    seconds = _seconds(recipe, lengths, device) if peak <= free else {}
    stages = [
        {
            "stage": name,
            "memory": stage.parts(),
            "fits": stage.total <= free,
            "seconds": seconds.get(name),
        }
        for name, stage in memory.items()
    ]
    return {
        "recipe": recipe.name,
        "model": recipe.backbone.model,
        "storage": storage(recipe.backbone, recipe.sft),
        "device": device,
        "free_bytes": free,
        "peak_bytes": peak,
        "fits": peak <= free,
        "advice": None if peak <= free else _advice(recipe, lengths, device, free),
        "stages": stages,
        "not_estimated": [] if recipe.stop_after else ["evaluate", *(["test"] if recipe.test.n else []), "council"],
        "time_basis": "layers of this shape with random weights, timed on this machine" if seconds else None,
    }


def _batches(recipe: Recipe, lengths: Lengths) -> dict[str, tuple[list[Batch], list[Batch]]]:
    """Of every stage the batches that are trained on, and those that are held out."""
    tokens, losses = ([row[i] for row in lengths.sft["train"]] for i in (0, 1))
    found = {"sft": (sft_batches(tokens, losses, recipe.sft, recipe.seed), _held_out(recipe, lengths))}
    if trains_reward(recipe):
        size, tokens = recipe.reward.batch_size, sorted(lengths.reward["validation"])
        held_out = [scored(tokens[i : i + size]) for i in range(0, len(tokens), size)]
        found["reward"] = (reward_batches(lengths.reward["train"], recipe.reward, recipe.seed), held_out)
    return found


def _held_out(recipe: Recipe, lengths: Lengths) -> list[Batch]:
    rows, size = lengths.sft["validation"], recipe.sft.batch_size // recipe.sft.gradient_accumulation
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [Batch(len(part), width_of(max(row[0] for row in part)), sum(row[1] for row in part)) for part in parts]


def memory_of(recipe: Recipe, lengths: Lengths, device: str) -> dict[str, Memory]:
    batches = _batches(recipe, lengths)
    found = {"sft": sft_memory(recipe.backbone, recipe.sft, *batches["sft"], device=device)}
    if "reward" in batches:
        found["reward"] = reward_memory(recipe.backbone, recipe.reward, *batches["reward"], device=device)
    if trains_policy(recipe):
        found["ppo"] = ppo_memory(recipe.backbone, recipe.ppo, lengths.prompts, trains_reward(recipe), device)
    return found


def _seconds(recipe: Recipe, lengths: Lengths, device: str) -> dict[str, float]:
    found = {}
    for name, (train, held_out) in _batches(recipe, lengths).items():
        batch = _median(train)
        sft = recipe.sft if name == "sft" else recipe.sft.model_copy(update={"method": "lora"})
        rates = probe(recipe.backbone, sft, batch)
        trained = trained_parameters(recipe.backbone, sft)
        steps = recipe.sft.steps if name == "sft" else recipe.reward.steps
        parts = recipe.sft.gradient_accumulation if name == "sft" else 1
        losses = sum(b.losses for b in train) / len(train) * parts
        size = batch.rows * batch.tokens
        evaluated = sum(b.rows * b.tokens for b in held_out) / size
        found[name] = steps * rates.step(parts, losses, trained) + rates.evaluation(
            evaluated, sum(b.losses for b in held_out)
        )
    if trains_policy(recipe):
        found["ppo"] = _ppo_seconds(recipe, lengths)
    return found


def _ppo_seconds(recipe: Recipe, lengths: Lengths) -> float:
    """Every iteration samples, measures and updates; responses are as long as they may be, prompts of median length."""
    ppo, lora = recipe.ppo, recipe.sft.model_copy(update={"method": "lora"})
    prompt = sorted(lengths.prompts)[len(lengths.prompts) // 2]
    steps, forwards = ppo_batches(ppo, prompt, trains_reward(recipe))
    timed = steps["policy"][0]
    rates = probe(recipe.backbone, lora, timed)
    token = rates.layers * probe_decoding(recipe.backbone, ppo.batch_size, prompt + ppo.max_tokens // 2)
    seconds = ppo.max_tokens * (token + ppo.batch_size * rates.position / 3)
    share = ppo.batch_size / timed.rows  # of all rollouts, in units of the timed batch
    for role, _ in forwards:
        with_logits = role in ("policy", "sft")
        seconds += rates.evaluation(share, ppo.batch_size * ppo.max_tokens * with_logits)
    trained = trained_parameters(recipe.backbone, lora)
    for role, batches in steps.items():
        losses = ppo.batch_size * ppo.max_tokens if role == "policy" else 0
        seconds += ppo.epochs * rates.step(share, losses, ppo.minibatches * trained)
        for plain in batches[1:]:
            tokens = plain.rows * plain.tokens / (timed.rows * timed.tokens)
            seconds += ppo.epochs * ppo.minibatches * rates.step(tokens, plain.losses, 0)
    return ppo.iterations * seconds


def _median(batches: Sequence[Batch]) -> Batch:
    return sorted(batches, key=lambda b: b.rows * b.tokens)[len(batches) // 2]


def _advice(recipe: Recipe, lengths: Lengths, device: str, free: int) -> str:
    """The first change, or the shortest row of changes, with which every stage fits."""
    changed = recipe
    said: list[str] = []
    for words, update in _changes(recipe):
        alone = _updated(recipe, update)
        if max(stage.total for stage in memory_of(alone, lengths, device).values()) <= free:
            return f"set {words}"
        changed, said = _updated(changed, update), [*said, words]
        if max(stage.total for stage in memory_of(changed, lengths, device).values()) <= free:
            return f"set {', '.join(said)}"
    tried = f" even with {', '.join(said)}" if said else ""
    return f"it does not fit{tried}; take a smaller backbone.model or a machine with more memory"


def _changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """What lowers the peak, the cheapest first: changes to the recipe's sections, and how to write them."""
    sft, reward = recipe.sft, recipe.reward
    if sft.gradient_accumulation < sft.batch_size:
        yield f"sft.gradient_accumulation: {sft.batch_size}", {"sft": {"gradient_accumulation": sft.batch_size}}
    if trains_reward(recipe) and reward.batch_size > 1:
        smaller = max(1, reward.batch_size // 4)
        yield f"reward.batch_size: {smaller}", {"reward": {"batch_size": smaller}}
    if not sft.gradient_checkpointing and sft.method != "prefix":
        yield "sft.gradient_checkpointing: true", {"sft": {"gradient_checkpointing": True}}
    if trains_policy(recipe):
        yield from _ppo_changes(recipe)
    if sft.method == "full" and not sft.optimizer.endswith("8bit"):
        yield "sft.optimizer: adamw_8bit", {"sft": {"optimizer": "adamw_8bit"}}
    if sft.method == "full":
        yield (
            "sft.method: qlora with backbone.quantization: nf4",
            {"sft": {"method": "qlora"}, "backbone": {"quantization": "nf4"}},
        )
    elif recipe.backbone.quantization != "nf4":
        yield "backbone.quantization: nf4", {"backbone": {"quantization": "nf4"}}


def _ppo_changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    ppo = recipe.ppo
    if ppo.micro_batch_size is None or ppo.micro_batch_size > 1:
        smaller = max(1, (ppo.micro_batch_size or ppo.batch_size // ppo.minibatches) // 4)
        yield f"ppo.micro_batch_size: {smaller}", {"ppo": {"micro_batch_size": smaller}}
    if not ppo.gradient_checkpointing:
        yield "ppo.gradient_checkpointing: true", {"ppo": {"gradient_checkpointing": True}}


def _updated(recipe: Recipe, update: dict[str, dict[str, Any]]) -> Recipe:
    sections = {name: getattr(recipe, name).model_copy(update=changes) for name, changes in update.items()}
    return recipe.model_copy(update=sections)

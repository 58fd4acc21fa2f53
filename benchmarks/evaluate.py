"""Evaluation beside lm-evaluation-harness: ``python -m benchmarks.evaluate [--json]``.

The same requests, as the harness makes them, to its own Hugging Face model at the batch size that is its fastest, and
to ours: texts to write (questions of GSM8K, greedy, at most 64 tokens) and the choices of TruthfulQA's MC1, with no
example, with five that all questions share, and with five of each question's own, where only its choices share a
context. Both are the embedded model, in the dtype of this machine or in ``--dtype``. Then one process against two
workers of Ray, each on a share of the cores, in the dtype of this machine (not where ``--dtype`` is another one). Needs
the extras ``harness`` and ``ray``, and JUNTO_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from alignment.embedded import embedded_folder
from alignment.engine import Engine
from alignment.machine import multiplies_bfloat16
from alignment.run_dir import read_rows
from graphs.evaluation.answers import answered
from graphs.evaluation.config import Evaluation
from graphs.evaluation.harness import HarnessModel
from graphs.evaluation.subject import Subject, opened
from graphs.evaluation.workers import over_workers

DATA = Path(os.environ.get("JUNTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
BATCHES = (1, 4, 8, 16, 32, 64)
TRIED = 24  # requests by which the harness's batch size is chosen
REPEATS = 3
TOKENS = 64
SHOTS = 5

Request = tuple[Any, ...]


def questions(count: int) -> list[str]:
    return [row["question"] for row in read_rows(DATA / "gsm8k" / "train.jsonl")[:count]]


def choices(count: int, shots: int, shared: bool) -> list[Request]:
    """Contexts and continuations of the first questions, all choices of one after the other."""
    rows = json.loads((DATA / "truthfulqa" / "mc_task.json").read_text())
    asked, rest = rows[:count], rows[count:]
    found: list[Request] = []
    for number, row in enumerate(asked):
        rng = random.Random(0 if shared else number)
        examples = "".join(_solved(one) for one in rng.sample(rest, shots))
        found += [(f"{examples}Q: {row['question']}\nA:", f" {choice}") for choice in row["mc1_targets"]]
    return found


def _solved(row: dict[str, Any]) -> str:
    right = next(choice for choice, is_right in row["mc1_targets"].items() if is_right)
    return f"Q: {row['question']}\nA: {right}\n\n"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def instances(kind: str, requests: Sequence[Request]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, request, i) for i, request in enumerate(requests)]


def beside(kind: str, requests: list[Request], mine: HarnessModel, theirs: Any) -> dict[str, Any]:
    """Seconds of both in turn, of which the medians count, the harness's batch size, and what both found."""
    speeds = {}
    for size in BATCHES:
        theirs.batch_size_per_gpu = size
        speeds[size], _ = timed(lambda: getattr(theirs, kind)(instances(kind, requests[:TRIED]), disable_tqdm=True))
        print(f"{kind}: batches of {size}: {speeds[size]:.1f} s for {min(TRIED, len(requests))}", file=sys.stderr)
    best = min(speeds, key=speeds.__getitem__)
    theirs.batch_size_per_gpu = best
    my_times, their_times = [], []
    for _ in range(REPEATS):
        their_time, wanted = timed(lambda: getattr(theirs, kind)(instances(kind, requests), disable_tqdm=True))
        my_time, found = timed(lambda: getattr(mine, kind)(instances(kind, requests)))
        my_times.append(my_time)
        their_times.append(their_time)
        print(f"{kind}: {len(requests)} requests, {my_time:.1f} s against {their_time:.1f} s", file=sys.stderr)
    about = {"requests": len(requests), "seconds": my_times, "harness_seconds": their_times, "batch_size": best}
    return about | {"speedup": median(their_times) / median(my_times), "found": found, "wanted": wanted}


def likelihood_difference(measured: dict[str, Any]) -> float:
    """The largest difference of two log-likelihoods, relative to their size."""
    pairs = zip(measured["found"], measured["wanted"], strict=True)
    return max(abs(a[0] - b[0]) / max(abs(b[0]), 1.0) for a, b in pairs)


def chosen(found: Sequence[Any], count: int) -> list[int]:
    """Of each of ``count`` questions the choice of the largest log-likelihood; the first choice is the right one."""
    rows = json.loads((DATA / "truthfulqa" / "mc_task.json").read_text())[:count]
    sizes = [len(row["mc1_targets"]) for row in rows]
    ends = list(accumulate(sizes))
    return [int(np.argmax([one[0] for one in found[end - size : end]])) for size, end in zip(sizes, ends, strict=True)]


def ray_speedup(count: int) -> dict[str, float]:
    evaluation = Evaluation(
        name="gsm8k", kind="generate", data="-", target="-", max_tokens=TOKENS, metrics=["exact_match"]
    )
    prompts = [[{"role": "user", "content": question}] for question in questions(count)]
    items = [{"id": str(i), "place": str(i), "prompt": prompt} for i, prompt in enumerate(prompts)]
    batches = [items[i : i + 8] for i in range(0, count, 8)]
    with opened(["embedded"], Path("runs")) as subject_of:
        subject = subject_of("embedded")
        list(answered(subject, evaluation, 0, batches[:1], False))
        alone, rows = timed(lambda: list(answered(subject, evaluation, 0, batches, False)))
    with over_workers("embedded", 2, Path("runs")) as answer:
        list(answer(evaluation, 0, batches[:2], False))  # both have loaded the model
        several, others = timed(lambda: list(answer(evaluation, 0, batches, False)))
    same = sum(a["text"] == b["text"] for x, y in zip(rows, others, strict=True) for a, b in zip(x, y, strict=True))
    seconds = {"ray_seconds": several, "one_process_seconds": alone}
    return {"ray_speedup": alone / several, "ray_same": same / count} | seconds


def measure(count: int, dtype: str) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    usual = "bfloat16" if multiplies_bfloat16() else "float32"
    dtype = usual if dtype == "auto" else dtype
    settings = {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
    written = [(f"Question: {question}\nAnswer:", settings) for question in questions(count)]
    found: dict[str, Any] = {"dtype": dtype, "threads": torch.get_num_threads()}
    theirs = HFLM(pretrained=str(embedded_folder()), dtype=dtype, device="cpu", batch_size=1)
    with Engine.open("embedded", compute_dtype=dtype) as engine:
        mine = HarnessModel(Subject("embedded", engine, "base", {}))
        generation = beside("generate_until", written, mine, theirs)
        found["generation_speedup"] = generation["speedup"]
        same = [a == b for a, b in zip(generation.pop("found"), generation.pop("wanted"), strict=True)]
        found["generation"] = generation | {"same_texts": sum(same) / len(same)}
        differences = []
        for name, shots, shared in (("0", 0, True), ("5_shared", SHOTS, True), ("5", SHOTS, False)):
            measured = beside("loglikelihood", choices(count, shots, shared), mine, theirs)
            differences.append(likelihood_difference(measured))
            key = "loglikelihood_speedup" if name == "0" else f"loglikelihood_speedup_{name}_shots"
            found[key] = measured["speedup"]
            own, other = (chosen(measured[whose], count) for whose in ("found", "wanted"))
            measured |= {"right": own.count(0) / count, "harness_right": other.count(0) / count}
            measured["same_choices"] = sum(a == b for a, b in zip(own, other, strict=True)) / count
            found[f"loglikelihood_{name}"] = {k: v for k, v in measured.items() if k not in ("found", "wanted")}
        found["max_score_difference"] = max(differences)
    return found | (ray_speedup(count) if dtype == usual else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=48, help="questions of each kind")
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: there is no {DATA}; set JUNTO_DATA")
        return
    found = measure(given.n, given.dtype)
    print(json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()

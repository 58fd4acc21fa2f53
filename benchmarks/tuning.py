"""Every way of supervised tuning on the embedded model: held-out loss, trained parameters, memory, speed.

``python -m benchmarks.tuning [--json]`` runs each cell of the table in a process of its own, for the same number of
steps on the same Game of 24 rows, and sets the memory that ``junto estimate`` foretells beside the peak that was
measured. Finished cells are kept, so an interrupted run goes on; about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alignment.config import tuning_conflict
from alignment.embedded import cache_dir
from alignment.run_dir import RunDir, write_atomic
from graphs.recipe import Recipe

METHODS = ("full", "lora", "qlora", "prefix", "prompt")
QUANTIZATIONS = ("none", "int8", "nf4")
STEPS, ROWS, LINES, CALLS = 40, 4, 1000, 9
# each method at a learning rate that suits it: one rate for all would compare the rate
LEARNING_RATES = {"full": 1e-4, "lora": 1.5e-3, "qlora": 1.5e-3, "prefix": 1e-2, "prompt": 3e-2}

Cell = dict[str, Any]


def recipe(method: str, quantization: str) -> Recipe:
    """What a cell trains; the task is the Game of 24, the model the embedded one in bfloat16 arithmetic."""
    return Recipe.model_validate(
        {
            "name": "tuning",
            "stop_after": "sft",
            "data": {"lines": LINES},
            "backbone": {"quantization": quantization},
            "sft": {
                "method": method,
                "steps": STEPS,
                "batch_size": ROWS,
                "learning_rate": LEARNING_RATES[method],
                "checkpoint_every": STEPS,
            },
        }
    )


def why_not(method: str, quantization: str) -> str | None:
    """Why a cell of the table is empty; None where it is run."""
    if method == "lora" and quantization == "nf4":
        return "this is qlora"
    wanted = recipe(method, quantization)
    conflict = tuning_conflict(wanted.backbone, wanted.sft)
    return conflict[1].split(", and")[0] if conflict else None


# -- one cell, in a process of its own ------------------------------------------------------------------------


def resident() -> dict[str, int]:
    """Bytes: the resident set now (``VmRSS``), its peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def measure(method: str, quantization: str) -> Cell:
    """Trains a cell; its memory counts from where the imports end."""
    import torch

    from alignment.backbone import Backbone
    from alignment.sft import train_sft
    from graphs.tasks import game24

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    wanted = recipe(method, quantization)
    rows = game24.load(game24.Options(**wanted.data), wanted.seed).sft
    before = resident()["VmRSS"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: importing has one of its own
    backbone = Backbone(wanted.backbone, master_weights=method == "full")
    loaded = resident()
    footprint = backbone.causal_lm.get_memory_footprint()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.create("", {})
        began = time.perf_counter()
        train_sft(backbone, wanted.sft, rows["train"], rows["validation"], run, wanted.seed, lambda event: None)
        seconds = time.perf_counter() - began
        steps = [row for row in run.metrics() if row["stage"] == "sft"]
        results = run.results("sft")
    peak = resident()
    rates = sorted(row["tokens_per_second"] for row in steps)
    if method == "full":  # whose weights are in the compute dtype by now
        backbone = Backbone(wanted.backbone, master_weights=True)
    return {
        "held_out_loss": results["validation_loss"],
        "trained_parameters": results["trained_parameters"],
        "footprint_bytes": footprint,
        "peak_bytes": peak["VmHWM"] - before,
        "load_peak_bytes": loaded["VmHWM"] - before,
        "loaded_bytes": loaded["VmRSS"] - before,
        "imports_bytes": before,
        "tokens_per_second": rates[len(rates) // 2],
        "share_of_forward": share_of_forward(backbone, "base" if method == "full" else "sft", rows["train"]),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "losses": [row["loss"] for row in steps],
    }


def share_of_forward(backbone: Any, role: str, rows: list[dict[str, Any]]) -> float:
    """Rate of forward and backward over that of the forward without gradients, on the same rows with the same logits:
    medians of ``CALLS`` calls in turn, after two that do not count."""
    import torch

    from alignment.batch import encode_rows, pad, token_logprobs

    encoded = encode_rows(backbone.chat, rows[:ROWS], 512)
    ids, mask = pad([row["input_ids"] for row in encoded], backbone.chat.pad_id, rounded=True)
    wanted = pad([row["labels"] for row in encoded], -100, rounded=True)[0] != -100

    def both() -> None:
        with backbone.role(role, train=True):
            with backbone.compute():
                loss = -token_logprobs(backbone, ids, mask, wanted).sum()
            loss.backward()
            for parameter in backbone.parameters(role):
                parameter.grad = None

    def forward() -> None:
        with torch.no_grad(), backbone.role(role), backbone.compute():
            token_logprobs(backbone, ids, mask, wanted)

    found: dict[Any, list[float]] = {both: [], forward: []}
    for _ in range(CALLS + 2):
        for call, seconds in found.items():
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return statistics.median(found[forward][2:]) / statistics.median(found[both][2:])


# -- the table ------------------------------------------------------------------------------------------------


def kept(folder: Path, method: str, quantization: str) -> Path:
    """Where a finished cell lies: its name says by which settings it was made."""
    settings = json.dumps(recipe(method, quantization).model_dump(mode="json"), sort_keys=True)
    return folder / f"{method}-{quantization}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.json"


def run_cell(method: str, quantization: str) -> Cell:
    command = [sys.executable, "-m", "benchmarks.tuning", "--cell", method, quantization]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    cell: Cell = json.loads(done.stdout)
    return cell


def table(folder: Path, say: Any) -> dict[str, Any]:
    """Every cell of the table, measured or read from ``folder``, with the estimate beside it."""
    from alignment.estimate import model_parameters
    from graphs.estimate import memory_of, read_lengths

    folder.mkdir(parents=True, exist_ok=True)
    lengths = read_lengths(recipe("lora", "none"), Path.cwd())
    size = model_parameters(recipe("lora", "none").backbone)
    cells = []
    for method in METHODS:
        for quantization in QUANTIZATIONS:
            names = {"method": method, "quantization": quantization, "learning_rate": LEARNING_RATES[method]}
            if reason := why_not(method, quantization):
                cells.append(names | {"not_run": reason})
                continue
            path = kept(folder, method, quantization)
            if path.exists():
                cell = json.loads(path.read_text())
            else:
                say(f"{method} on {quantization} …")
                cell = run_cell(method, quantization)
                if "error" not in cell:
                    write_atomic(path, json.dumps(cell) + "\n")
            if "error" not in cell:
                estimate = memory_of(recipe(method, quantization), lengths, "cpu")["sft"]
                cell |= {
                    "bytes_per_parameter": cell["footprint_bytes"] / size,
                    "estimate_bytes": estimate.total,
                    "estimate_error": estimate.total / cell["peak_bytes"] - 1,
                    "estimate_parts": estimate.parts(),
                }
            cells.append(names | cell)
    by_name = {(c["method"], c["quantization"]): c for c in cells}
    pair = by_name["qlora", "nf4"].get("held_out_loss"), by_name["lora", "none"].get("held_out_loss")
    return {
        "model": "embedded",
        "steps": STEPS,
        "rows_per_step": ROWS,
        "parameters": size,
        "cells": cells,
        "qlora_gap": pair[0] - pair[1] if None not in pair else None,
    }


HEAD = ("method", "weights", "held-out", "trained", "B/param", "peak MB", "estimate", "error", "tokens/s", "of forward")


def lines(found: dict[str, Any]) -> list[str]:
    """The table as text; losses in nats per completion token, memory above the imports in 10^6 bytes; the last column
    is the rate of forward and backward over that of the forward without gradients."""
    rows = [HEAD]
    notes = []
    for cell in found["cells"]:
        names = (cell["method"], cell["quantization"])
        if "held_out_loss" not in cell:
            notes.append(f"{names[0]} on {names[1]}: {cell.get('not_run') or 'failed: ' + cell['error']}")
            continue
        rows.append(
            (
                *names,
                f"{cell['held_out_loss']:.4f}",
                f"{cell['trained_parameters']:,}",
                f"{cell['bytes_per_parameter']:.2f}",
                f"{cell['peak_bytes'] / 1e6:.0f}",
                f"{cell['estimate_bytes'] / 1e6:.0f}",
                f"{cell['estimate_error']:+.0%}",
                f"{cell['tokens_per_second']:.0f}",
                f"{cell['share_of_forward']:.2f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    text = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    gap = found["qlora_gap"]
    if gap is not None:
        text.append(f"QLoRA's claim in miniature: NF4 with double quantization against bfloat16 LoRA, {gap:+.4f} nats")
    return [*text, *notes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the table as one JSON object")
    parser.add_argument("--folder", type=Path, default=cache_dir() / "benchmarks" / "tuning", help="finished cells")
    parser.add_argument("--cell", nargs=2, metavar=("METHOD", "QUANTIZATION"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.cell:
        print(json.dumps(measure(*chosen.cell)))
        return
    found = table(chosen.folder, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(found, indent=1) if chosen.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()

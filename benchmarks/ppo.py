"""PPO side by side: Junto, TRL 1.12 with and without PEFT, LLaMA-Factory: memory, time, reward at equal KL.

``python -m benchmarks.ppo [--json]`` trains the embedded model to write responses of a given number of words, each
arm in a process of its own with the same prompts, dtype, batch, epochs, minibatches, response length and KL
coefficient. The reward is a function in every arm, so none holds a reward model. The peers' environments are made on
the first run. Finished arms are kept, so an interrupted run goes on.

Memory is the peak of the resident set above the imports; seconds are those of the training loop, over its episodes.
Ratios are Junto's over those of TRL with PEFT, at the same dtype; ``--profile`` says where Junto's go.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignment.embedded import cache_dir, embedded_folder
from alignment.run_dir import write_atomic
from benchmarks.ppo_peers import environments, equal_kl
from benchmarks.ppo_peers.junto_arm import backbone_of, config_of, prompt_ids
from benchmarks.ppo_peers.task import WORDS

Arm = dict[str, Any]

SETTINGS = {
    "batch_size": 16,
    "minibatches": 2,
    "epochs": 2,
    "rows_per_forward": 8,  # of an update: a minibatch
    "rollout_rows": 16,  # that are sampled together
    "max_tokens": 32,
    "temperature": 1.0,
    "kl_coef": 0.05,
    "lam": 0.95,
    "lora_rank": 16,
    "lora_alpha": 32.0,
    "learning_rate": 5e-4,  # of every LoRA adapter
    "full_learning_rate": 2e-5,  # of what a peer trains in full
    "words": WORDS,
    "seed": 0,
}

ARMS: dict[str, dict[str, Any]] = {
    "junto": {"peer": "junto", "quantization": "none"},
    "junto-nf4": {"peer": "junto", "quantization": "nf4"},
    "trl-peft": {"peer": "trl", "peft": True},
    "trl-full": {"peer": "trl", "peft": False},
    "llamafactory": {"peer": "llamafactory"},
}
NAMES = {
    "junto": "Junto",
    "junto-nf4": "Junto, NF4",
    "trl-peft": "TRL 1.12, PEFT",
    "trl-full": "TRL 1.12",
    "llamafactory": "LLaMA-Factory 0.9.3",
}


def settings_of(arm: str, iterations: int, dtype: str, model: str) -> dict[str, Any]:
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return SETTINGS | ARMS[arm] | {"iterations": iterations, "dtype": dtype, "model": model, "threads": threads}


# -- running --------------------------------------------------------------------------------------------------


def kept(folder: Path, arm: str, settings: dict[str, Any]) -> Path:
    """Where a finished arm lies: its name says by which settings it was made."""
    told = json.dumps({k: v for k, v in settings.items() if k not in ("model", "prompt_ids")}, sort_keys=True)
    return folder / f"{arm}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"


def interpreter(peer: str, folder: Path) -> str:
    """The Python that runs an arm. Raises NotInstalled."""
    if peer == "trl":
        check = "from trl.experimental.ppo import PPOTrainer"
        return str(environments.environment("trl", environments.trl_commands(), check, folder))
    if peer == "llamafactory":
        check = "from llamafactory.train.tuner import run_exp"
        return str(environments.environment("llamafactory", environments.llamafactory_commands(), check, folder))
    return sys.executable


def run_arm(settings: dict[str, Any], python: str) -> Arm:
    """An arm's record, or ``not_run`` and why."""
    with tempfile.TemporaryDirectory() as folder:
        told, result = Path(folder) / "settings.json", Path(folder) / "result.json"
        told.write_text(json.dumps(settings))
        command = [python, "-m", f"benchmarks.ppo_peers.{settings['peer']}_arm", str(told), str(result)]
        offline = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
        env = os.environ | offline | {"OMP_NUM_THREADS": str(settings["threads"]), "DISABLE_VERSION_CHECK": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[1])
        if done.returncode or not result.exists():
            return {"not_run": f"the arm ended with: {environments.last_line(done.stderr)}"}
        found: Arm = json.loads(result.read_text())
        return found


def table(folder: Path, iterations: int, dtype: str, arms: list[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Every arm, measured or read from ``folder``, and what follows from them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = str(embedded_folder())
    ids = prompt_ids(model)
    runs = []
    for arm in arms:
        settings = settings_of(arm, iterations, dtype, model)
        path = kept(folder, arm, settings)
        if path.exists():
            found = json.loads(path.read_text())
        else:
            say(f"{NAMES[arm]} …")
            try:
                found = run_arm(settings | {"prompt_ids": ids}, interpreter(ARMS[arm]["peer"], folder / "environments"))
            except environments.NotInstalled as why:
                found = {"not_run": f"it could not be installed: {why}"}
            if "not_run" not in found:
                write_atomic(path, json.dumps(found) + "\n")
        about: Arm = {"arm": arm, "name": NAMES[arm], "dtype": dtype}
        if ARMS[arm]["peer"] == "junto" and "not_run" not in found:
            about["estimate_bytes"] = estimate_bytes(settings, [len(prompt) for prompt in ids])
            about["estimate_error"] = about["estimate_bytes"] / found["peak_bytes"] - 1
        runs.append(about | found)
    shown = {k: v for k, v in SETTINGS.items()} | {"iterations": iterations, "dtype": dtype, "prompts": len(ids)}
    return {"model": "embedded", "settings": shown} | conclusions(runs) | {"runs": runs}


def estimate_bytes(settings: dict[str, Any], prompts: list[int]) -> int:
    """What ``junto estimate`` foretells of an arm of Junto's."""
    from alignment.estimate import ppo_memory

    return ppo_memory(backbone_of(settings), config_of(settings), prompts, learned=False).total


def conclusions(runs: list[Arm]) -> dict[str, Any]:
    """Junto over TRL with PEFT, and over LLaMA-Factory in memory; None where one of both was not run. Also adds to
    every run its own ratios to TRL with PEFT."""
    by_arm = {run["arm"]: run for run in runs if "not_run" not in run}

    def ratio(arm: str, peer: str, key: str) -> float | None:
        return by_arm[arm][key] / by_arm[peer][key] if arm in by_arm and peer in by_arm else None

    for arm, run in by_arm.items():
        run["memory_ratio"] = ratio(arm, "trl-peft", "peak_bytes")
        run["time_ratio"] = ratio(arm, "trl-peft", "seconds_per_episode")
    equal = None
    if "junto" in by_arm and "trl-peft" in by_arm:
        found = equal_kl.compare(curve(by_arm["junto"]), curve(by_arm["trl-peft"]))
        equal = {"junto": found["first"], "trl": found["second"]} | {key: found[key] for key in ("kl", "difference")}
    return {
        "memory_ratio": ratio("junto", "trl-peft", "peak_bytes"),
        "time_ratio": ratio("junto", "trl-peft", "seconds_per_episode"),
        "memory_ratio_nf4": ratio("junto-nf4", "trl-peft", "peak_bytes"),
        "time_ratio_nf4": ratio("junto-nf4", "trl-peft", "seconds_per_episode"),
        "memory_ratio_llamafactory": ratio("junto", "llamafactory", "peak_bytes"),
        "memory_ratio_llamafactory_nf4": ratio("junto-nf4", "llamafactory", "peak_bytes"),
        "reward_at_equal_kl": equal,
    }


def curve(run: Arm) -> equal_kl.Curve:
    return [(row["kl"], row["scores"]) for row in run["iterations"]]


# -- what is shown --------------------------------------------------------------------------------------------

PHASES = ("rollout", "scoring", "update")
HEAD = ("arm", "peak MB", "estimate", "ratio", "s/episode", "ratio", *PHASES, "steps", "KL", "reward")


def lines(found: dict[str, Any]) -> list[str]:
    """The table as text: memory above the imports in 10^6 bytes, the error of ``junto estimate``; seconds of the phases
    per episode; KL in nats per response and mean reward of the last iteration (of the first)."""
    rows, notes = [HEAD], []
    for run in found["runs"]:
        if "not_run" in run:
            notes.append(f"{run['name']}: not run; {run['not_run']}")
            continue
        first, last = run["iterations"][0], run["iterations"][-1]
        rows.append(
            (
                run["name"],
                f"{run['peak_bytes'] / 1e6:.0f}",
                f"{run['estimate_error']:+.0%}" if "estimate_error" in run else "-",
                figure(run["memory_ratio"]),
                f"{run['seconds_per_episode']:.2f}",
                figure(run["time_ratio"]),
                *(f"{phase_seconds(run, phase):.2f}" for phase in PHASES),
                str(run["updates"]),
                f"{last['kl']:.2f} ({first['kl']:.2f})",
                f"{last['reward']:+.3f} ({first['reward']:+.3f})",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    if equal := found["reward_at_equal_kl"]:
        text.append(
            f"reward at equal KL ({equal['kl']:.2f} nats per response): Junto {bounded(equal['junto'])}, TRL with PEFT "
            f"{bounded(equal['trl'])}, difference {bounded(equal['difference'])}"
        )
    return [*text, *notes]


def phase_seconds(run: Arm, phase: str) -> float:
    """Seconds of a phase per episode."""
    episodes = sum(len(row["scores"]) for row in run["iterations"])
    return sum(row["phases"].get(phase, {}).get("seconds", 0.0) for row in run["iterations"]) / episodes


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def bounded(value: dict[str, float]) -> str:
    return f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the table as one JSON object")
    parser.add_argument("--iterations", type=int, default=8, help="rounds of sampling and updating of every arm")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="weights and arithmetic")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the arms that are wanted")
    parser.add_argument("--folder", type=Path, default=cache_dir() / "benchmarks" / "ppo", help="finished arms")
    parser.add_argument("--profile", action="store_true", help="where Junto's seconds and bytes go; runs nothing else")
    chosen = parser.parse_args()
    if chosen.profile:
        from benchmarks.ppo_peers import profile

        print("\n".join(profile.lines(settings_of("junto", 1, chosen.dtype, str(embedded_folder())))))
        return
    found = table(
        chosen.folder,
        chosen.iterations,
        chosen.dtype,
        chosen.arms,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(json.dumps(found, indent=1) if chosen.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()

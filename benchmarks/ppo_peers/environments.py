"""Environments of the peers: made once with ``venv`` and ``pip``, each in a folder named by what it holds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


class NotInstalled(Exception):
    """One sentence: what could not be installed or imported, and what was said."""


def trl_commands() -> list[list[str]]:
    """pip's arguments for the last TRL that has PPO, on the versions that Junto is tested with."""
    pins = [line for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    wanted = ("torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "numpy", "safetensors")
    chosen = [pin for pin in pins if pin.split("==")[0] in wanted]
    torch = [pin for pin in chosen if pin.startswith("torch==")]
    return [torch, [*chosen, "trl==1.12.0"]]


def llamafactory_commands() -> list[list[str]]:
    """pip's arguments for LLaMA-Factory 0.9.3, the last whose own pins allow the TRL (at most 0.9.6) that its PPO
    asks for. 0.9.5 with that TRL does not import: its KTO trainer needs a newer one. numpy below 2, which both pin,
    needs an older pyarrow than pip takes."""
    torch = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")]
    return [torch, [*torch, "llamafactory==0.9.3", "trl==0.9.6", "pyarrow<21"]]


def environment(name: str, commands: Sequence[Sequence[str]], check: str, folder: Path) -> Path:
    """The interpreter of an environment in ``folder``, which is made where it is not there yet.

    Raises NotInstalled when pip fails or the statement ``check`` does not run in it.
    """
    place = folder / f"{name}-{hashlib.sha256(repr(commands).encode()).hexdigest()[:8]}"
    python = place / "bin" / "python"
    done = place / "complete"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)  # a half-made one
        _run([sys.executable, "-m", "venv", str(place)])
        for arguments in commands:
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])
        done.write_text("")
    _run([str(python), "-c", check])
    return python


def _run(command: list[str]) -> None:
    # the packages of whoever runs the benchmark stay out of it
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, env=inherited)
    if done.returncode:
        raise NotInstalled(f"{' '.join(command[1:])[:160]}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """What an error ended with."""
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "no message")

"""What every arm of ``benchmarks.ppo`` shares: prompts, the reward, and a clock that also reads memory.

The standard library only: it runs in the environments of the peers as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

WORDS = 12  # the length that the reward asks for

TEMPLATES = (
    "Tell me something about {}.",
    "What is special about {}? Answer in one sentence.",
    "Write a short line about {}.",
    "Describe {} to a child.",
)
THINGS = (
    "the sea",
    "old bridges",
    "a rainy morning",
    "honey bees",
    "paper maps",
    "mountain goats",
    "green tea",
    "night trains",
    "cast iron",
    "a village market",
    "wild garlic",
    "the moon",
    "a wooden chair",
    "river stones",
    "brass bands",
    "first snow",
)
PROMPTS = [template.format(thing) for thing in THINGS for template in TEMPLATES]


def length_reward(response: str) -> float:
    """-|words - L*| / L*: 0 at the length that is asked for, -1 for no word or twice as many."""
    return -abs(len(response.split()) - WORDS) / WORDS


# -- memory and time ------------------------------------------------------------------------------------------


def resident() -> dict[str, int]:
    """Bytes: the resident set now (``VmRSS``), its peak since the last ``forget_peak`` (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Clock:
    """Seconds and peak memory of named phases; what lies between two marks belongs to the phase of the first.

    Memory counts above what the process held when the clock was made: make it where the imports end.
    """

    def __init__(self) -> None:
        self.imports_bytes = resident()["VmRSS"]
        self.phases: list[dict[str, Any]] = []
        self._name = ""
        self.enter("load")

    def enter(self, name: str) -> None:
        """Ends the phase that runs, begins ``name``; the phase of that name that runs already goes on."""
        if name == self._name:
            return
        self.stop()
        self._name, self._began = name, time.perf_counter()
        self._start_bytes = resident()["VmRSS"] - self.imports_bytes
        forget_peak()

    def stop(self) -> None:
        if self._name:
            self.phases.append(
                {
                    "phase": self._name,
                    "seconds": time.perf_counter() - self._began,
                    "start_bytes": self._start_bytes,
                    "peak_bytes": resident()["VmHWM"] - self.imports_bytes,
                }
            )
        self._name = ""

    def within(self, name: str, then: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` as the phase ``name``; after it the phase ``then`` begins."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(name)
            found = function(*args, **kwargs)
            self.enter(then)
            return found

        return timed


def by_iteration(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The phases of each iteration, which begins with its rollout: ``{phase: {"seconds", "peak_bytes", ...}}``."""
    found: list[dict[str, Any]] = []
    for phase in phases:
        if phase["phase"] == "rollout":
            found.append({})
        if found:
            found[-1][phase["phase"]] = {name: value for name, value in phase.items() if name != "phase"}
    return found


def report(clock: Clock, curve: list[dict[str, float]], scores: list[float], **more: Any) -> dict[str, Any]:
    """An arm's record. ``curve``: KL and mean reward of each iteration; ``scores``: of all episodes, in order."""
    clock.stop()
    iterations = by_iteration(clock.phases)
    size = len(scores) // len(curve)
    loop = sum(phase["seconds"] for phase in clock.phases if phase["phase"] != "load")
    rows = [
        point | {"scores": scores[i * size : (i + 1) * size], "phases": phases}
        for i, (point, phases) in enumerate(zip(curve, iterations, strict=True))
    ]
    return {
        "peak_bytes": max(phase["peak_bytes"] for phase in clock.phases),
        "load_peak_bytes": max(phase["peak_bytes"] for phase in clock.phases if phase["phase"] == "load"),
        "imports_bytes": clock.imports_bytes,
        "seconds": loop,
        "seconds_per_episode": loop / len(scores),
        "iterations": rows,
    } | more

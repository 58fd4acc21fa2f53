"""Progress of the stages on stderr: a live line per stage in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from graphs.cli.output import console, printable

EVERY_STEPS = 5
EVERY_SECONDS = 10.0

LABELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "margin": "margin",
    "mae": "absolute error",
    "objective/scores": "reward",
    "objective/kl": "KL",
    "val/ratio": "ratio",
    "policy/clipfrac_avg": "clipped",
    "solved": "solved",
}


class Reporter:
    """Takes the events of a stage, inside a ``with`` block; see `describe` for their keys."""

    def __init__(self, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console(stream or sys.stderr)
        self.clock = clock
        self.printed: tuple[str, int, float] = ("", 0, 0.0)  # stage, step, time of the last plain line
        self.tasks: dict[str, TaskID] = {}
        self.live: Progress | None = None
        if self.console.is_terminal:
            self.live = Progress(
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}"),
                console=self.console,
            )

    def __enter__(self) -> Reporter:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the terminal is free for something else."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def __call__(self, event: dict[str, Any]) -> None:
        stage, step, total = event["stage"], event.get("step"), event.get("total")
        if self.live and total:
            if stage not in self.tasks:
                self.tasks[stage] = self.live.add_task(stage, total=total, detail="")
            self.live.update(self.tasks[stage], completed=step or 0, total=total, detail=_detail(event))
        elif self.live:
            self.live.console.print(describe(event))
        elif self._due(event):
            self.printed = (stage, step or 0, self.clock())
            self.console.print(describe(event))

    def _due(self, event: dict[str, Any]) -> bool:
        stage, step, when = self.printed
        now = event.get("step") or 0
        return bool(
            event["stage"] != stage
            or event.get("message")
            or event.get("done")
            or now == event.get("total")
            or now >= step + EVERY_STEPS
            or self.clock() >= when + EVERY_SECONDS
        )


def describe(event: dict[str, Any]) -> str:
    """``sft 12/60  loss 1.23  850 tokens/s  2 min 10 s left``.

    ``event``: ``stage``; optional ``step``, ``total``, ``metrics``, ``tokens_per_second``, ``eta_seconds``,
    ``message``, and ``done`` where the metrics are the results of the stage.
    """
    step, total = event.get("step"), event.get("total")
    count = f" {step}/{total}" if total and step is not None else ""
    detail = _detail(event)
    return f"{event['stage']}{count}" + (f"  {detail}" if detail else "")


def _detail(event: dict[str, Any]) -> str:
    done = bool(event.get("done"))
    parts = ["done"] if done else []
    if event.get("message"):
        parts.append(printable(str(event["message"])))
    metrics = event.get("metrics") or {}
    names = list(metrics) if done else [name for name in LABELS if name in metrics] or list(metrics)
    numbers = [(LABELS.get(name, name), _number(metrics[name])) for name in names]
    parts += [f"{name} {number}" for name, number in numbers if number is not None][:6]
    rate, left = event.get("tokens_per_second"), event.get("eta_seconds")
    if rate:
        parts.append(f"{rate:.0f} tokens/s")
    if left is not None and not done:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def _number(value: Any) -> str | None:
    if isinstance(value, dict):  # an interval
        value = value.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def duration(seconds: float) -> str:
    """``45 s``, ``2 min 10 s``, ``1 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""Where the seconds and bytes of Junto's arm go: one iteration under torch's profiler."""

from __future__ import annotations

from typing import Any

from benchmarks.ppo_peers import junto_arm

OPERATIONS = 12  # that are listed, of the most own time


def lines(settings: dict[str, Any]) -> list[str]:
    """Phases, bytes held, and the operations that take most time. The profiler itself takes time and memory: shares
    are to be read here, absolute figures from the benchmark."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    # the engine samples on a thread of its own
    every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=every_thread) as profiler:
        found = junto_arm.run(settings)
    text = [f"{'phase':10s} {'seconds':>8s} {'MB at start':>12s} {'peak MB':>8s}"]
    for name, phase in found["iterations"][0]["phases"].items():
        start, peak = phase["start_bytes"] / 1e6, phase["peak_bytes"] / 1e6
        text.append(f"{name:10s} {phase['seconds']:8.2f} {start:12.0f} {peak:8.0f}")
    text.append("held, MB: " + ", ".join(f"{name} {size / 1e6:.0f}" for name, size in found["held_bytes"].items()))
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:OPERATIONS]:
        share = event.self_cpu_time_total / total
        text.append(f"{share:6.1%}  {event.self_cpu_time_total / 1e6:7.2f} s  {event.count:8d} x  {event.key}")
    return text

"""``junto export``: a run's model as a plain Hugging Face folder, or its adapters as a run that can be shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.errors import SetupError, UsageError
from alignment.run_dir import RunDir

ROLES = ("policy", "sft")  # those that write text, the last trained first


def export(
    run: RunDir, folder: Path, roles: Sequence[str], dtype: str | None, adapters: bool, limit_mb: float | None
) -> tuple[dict[str, Any], list[str]]:
    """What was written, and the lines that say so."""
    if adapters and dtype is not None:
        raise UsageError("--dtype is of merged weights; with --adapters they are bfloat16")
    if adapters:
        from graphs.ship import ship

        written = ship(run, folder, roles, limit_mb)
        return written, [f"{folder}: {', '.join(written['roles'])} in bfloat16, {written['bytes'] / 1e6:.1f} MB"]
    if len(roles) > 1:
        raise UsageError("one role is merged at a time; give one --role, or --adapters for the adapters of several")
    if limit_mb is not None:
        raise UsageError("--limit-mb goes with --adapters; merged weights are as large as the model")
    written = export_run(run, folder, roles[0] if roles else None, dtype)
    return written, [f"{folder}: {written['merged']}, in {written['dtype']}", f"GGUF: {written['gguf']}"]


def export_run(run: RunDir, folder: Path, role: str | None, dtype: str | None) -> dict[str, Any]:
    """Exports ``role`` (without one: the policy where there is one, or the SFT model) and says what was written."""
    if role is not None and role not in ROLES:
        raise UsageError(f"--role is {role!r}; a model that writes is policy or sft")
    if dtype is not None and dtype not in ("float32", "bfloat16"):
        raise UsageError(f"--dtype is {dtype!r}; expected float32 or bfloat16")
    there = [name for name in ROLES if (run.path / "adapters" / name / "adapter.json").is_file()]
    if not there:
        raise SetupError(f"the run {run.path} has no trained adapters yet; run its recipe first")
    role = role or there[0]
    if role not in there:
        raise SetupError(f"the run {run.path} has no role {role!r} yet; it has {', '.join(there)}")

    from alignment.adapter_files import load_role
    from alignment.backbone import Backbone
    from alignment.config import BackboneConfig
    from alignment.export import export_role

    backbone = Backbone(BackboneConfig(**run.backbone()))
    load_role(backbone, role, run.path / "adapters" / role)
    what = export_role(backbone, role, folder, dtype or backbone.config.compute_dtype)
    return {"folder": str(folder), "run": str(run.path), **what}

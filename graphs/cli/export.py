"""``junto export``: a run's model as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.errors import SetupError, UsageError
from alignment.run_dir import RunDir

ROLES = ("policy", "sft")  # those that write text, the last trained first


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

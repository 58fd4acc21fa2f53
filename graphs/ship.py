"""``junto export --adapters``: a run's adapters as a run of their own, small enough to come with a project.

Under ``adapters/<name>/`` it is found by its name (``alignment.shipped``). It holds ``config.yaml``, ``adapters/``
(bfloat16, heads in float32), ``status.json`` with the stages' results, and ``README.md``, a model card.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.adapter_files import round_role
from alignment.backbone import ROLES
from alignment.errors import SetupError, UsageError
from alignment.run_dir import OPTIONAL, STAGES, RunDir
from graphs.model_card import model_card
from graphs.recipe import FUNCTIONS, Recipe, load_recipe, resolved

STAGE_OF = {"sft": "sft", "reward": "reward", "policy": "ppo", "value": "ppo"}
ORIGIN = "trained elsewhere, adapters rounded to bfloat16"


def ship(run: RunDir, folder: Path, roles: Sequence[str], limit_mb: float | None) -> dict[str, Any]:
    """Writes ``folder`` and says what is in it; ``roles``: none for all that the run has; ``limit_mb``: megabytes
    (10^6 bytes) that the whole folder may take. Raises UsageError and SetupError, and then writes nothing."""
    if folder.exists():
        raise UsageError(f"{folder} is there already; name a new folder")
    roles = _finished(run, roles)
    recipe = portable(load_recipe(run.path / "config.yaml"))
    unseated = sorted({expert.role for expert in recipe.council.experts} - {"base", *roles})
    if unseated:
        raise UsageError(
            f"the council of {run.path} seats {' and '.join(unseated)}, and the exported roles are {', '.join(roles)}; "
            "export those too, or seat others in the recipe's council and run it again, which trains nothing anew"
        )
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for role in roles:
            trained_on = recipe.backbone.model_dump(include={"quantization", "compute_dtype"})
            round_role(run.path / "adapters" / role, aside / "adapters" / role, trained_on)
        (aside / "config.yaml").write_text(resolved(recipe), encoding="utf-8")
        (aside / "status.json").write_text(json.dumps(_status(run, roles), indent=1) + "\n", encoding="utf-8")
        if (run.path / "calibration.json").is_file() and set(roles) == set(_there(run)):  # it was measured with all
            shutil.copyfile(run.path / "calibration.json", aside / "calibration.json")
        (aside / "README.md").write_text(model_card(folder.name, recipe, run, aside / "adapters"), encoding="utf-8")
        size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
        if limit_mb is not None and size > limit_mb * 1e6:
            raise UsageError(
                f"{', '.join(roles)} take {size / 1e6:.1f} MB, more than --limit-mb {limit_mb:g}; name fewer by --role"
            )
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"folder": str(folder), "run": str(run.path), "roles": roles, "bytes": size}


def _there(run: RunDir) -> list[str]:
    return [role for role in ROLES if (run.path / "adapters" / role / "adapter.json").is_file()]


def _finished(run: RunDir, roles: Sequence[str]) -> list[str]:
    """The roles that are asked for, in their order of training."""
    if unknown := sorted(set(roles) - set(ROLES)):
        raise UsageError(f"--role is {unknown[0]!r}; adapters are {', '.join(ROLES)}")
    if (run.path / "base").is_dir():
        raise SetupError(
            f"the run {run.path} tuned the base model itself, without which its adapters are of no use; export the "
            "merged model: junto export without --adapters"
        )
    if not roles and run.state() != "done":
        raise UsageError(
            f"the run {run.path} is {run.state()}, not done; finish it, or name what is finished: --role sft"
        )
    wanted = roles or _there(run)
    for role in wanted:
        if not run.done(STAGE_OF[role]) or role not in _there(run):
            raise UsageError(f"the run {run.path} has no finished role {role!r}; run its recipe as far as that")
    if not wanted:
        raise SetupError(f"the run {run.path} has no trained adapters yet; run its recipe first")
    return [role for role in ROLES if role in wanted]


def portable(recipe: Recipe) -> Recipe:
    """The recipe without paths of this machine: of data the file names are left. Raises UsageError where the model, the
    task or a function is a file here, since nothing works without it."""
    config = recipe.model_dump(mode="json")
    needed = {"task": recipe.task, "backbone.model": recipe.backbone.model}
    needed |= {f"{section}.{key}": config[section][key] for section, key, _ in FUNCTIONS}
    for key, value in needed.items():
        if value and Path(value).expanduser().is_absolute():
            raise UsageError(
                f"{key} of this run is {value}, which is on this machine only; others can use adapters whose recipe "
                "names a hub id or 'embedded', and modules of a package"
            )
    config |= {section: _names(config[section]) for section in ("data", "sft", "ppo")}
    return Recipe.model_validate(config)


def _names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _names(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_names(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _status(run: RunDir, roles: Sequence[str]) -> dict[str, Any]:
    """The finished stages up to the first whose role is left behind: a run that goes on trains from there."""
    status = run.status()
    stages = {}
    for stage in STAGES:
        left = {role for role in _there(run) if STAGE_OF[role] == stage} - {"value", *roles}  # none needs it after PPO
        if stage in OPTIONAL and not run.done(stage):
            if stage == "test" and stage in status["stages"]:  # it has been asked, so nothing is trained after it
                stages[stage] = {"state": status["stages"][stage]["state"], "origin": ORIGIN}
            continue
        if not run.done(stage) or left:
            break
        entry = status["stages"][stage]
        kept = {key: entry[key] for key in ("state", "step", "total", "seconds", "results") if key in entry}
        stages[stage] = kept | {"origin": ORIGIN}
    return {"state": "done", "stages": stages, "stage": "", "message": ORIGIN, "updated": status.get("updated")}

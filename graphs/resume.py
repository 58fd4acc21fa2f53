"""Whether a run may go on with a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.modules import load_function
from graphs.recipe import Recipe, load_task

# sections that decide what is trained and measured: a run goes on only with the same ones
FIXED = ("seed", "task", "data", "backbone", "sft", "reward", "ppo", "evaluate", "test")
TRAINING = ("sft", "reward", "ppo")
SAMPLED = ("ppo.temperature", "ppo.max_tokens")  # of the samples that reward.normalize: reference reads
STAGES = (*TRAINING, "evaluate", "test")  # each of which has a section of its name


def prepare_resume(run: RunDir, recipe: Recipe) -> None:
    """As ``refuse_changes``; a stage that failed, and has other settings now, begins again."""
    if failed := refuse_changes(run, recipe):
        shutil.rmtree(run.path / "checkpoints" / failed, ignore_errors=True)


def refuse_changes(run: RunDir, recipe: Recipe) -> str | None:
    """Raises UsageError where the run was made with another recipe; the stage that failed, if its settings are others.

    The section of a stage that has not begun may be another one. So may that of the stage that failed, since that is
    how a failure is mended: the stage then begins again, with what was finished before it. What was trained elsewhere
    goes on in the arithmetic of this machine.
    """
    # a run of an earlier version lacks keys that have come since: they had their defaults
    before, now = Recipe.model_validate(run.config()).model_dump(mode="json"), recipe.model_dump(mode="json")
    if before["task"] == now["task"]:
        with suppress(ValidationError):  # then the difference is told as it is
            before["data"] = load_task(recipe.task, run.path).Options(**before["data"]).model_dump(mode="json")
    failed = _failed(run)
    begun = run.status()["stages"]
    fixed = [section for section in FIXED if section not in STAGES or section in begun]
    changed = {section: list(_differences(before.get(section), now[section], section)) for section in fixed}
    if begun and all("origin" in entry for entry in begun.values()):
        changed["backbone"] = [key for key in changed["backbone"] if key != "backbone.compute_dtype"]
    if "reward" in begun and "ppo" not in begun and recipe.reward.normalize == "reference":
        changed["ppo"] = [key for key in _differences(before["ppo"], now["ppo"], "ppo") if key in SAMPLED]
    if _gold_changed(run, recipe):
        if failed != "ppo":
            raise UsageError(
                f"the file of the gold function {recipe.ppo.gold} has changed since this run began; put it back, "
                "or add --fresh to start over"
            )
        changed["ppo"].append("ppo.gold")
    refused = [key for section, keys in changed.items() if section != failed for key in keys]
    if refused:
        raise UsageError(
            f"{run.path} was made with another recipe (changed: {', '.join(refused[:3])}); "
            "add --fresh to start over, or --set name=… for a run of its own"
        )
    return failed if failed and changed.get(failed) else None


def _gold_changed(run: RunDir, recipe: Recipe) -> bool:
    """Whether PPO has begun under another text of the gold function: one curve would show two scores."""
    before = run.environment().get("gold_sha256")
    if recipe.ppo.gold is None or before is None or "ppo" not in run.status()["stages"]:
        return False
    return load_function(recipe.ppo.gold, what="gold function").sha256 != before


def _failed(run: RunDir) -> str | None:
    """The stage of training in which the run failed: the first that is not done."""
    if run.status().get("state") != "failed":
        return None
    return next((stage for stage in TRAINING if not run.done(stage)), None)


def _differences(before: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now.keys() | before.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}")
    elif before != now:
        yield key

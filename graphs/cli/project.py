"""``junto init``: a folder with a recipe and rows to begin with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from alignment.errors import SetupError, UsageError

SAMPLE = Path(__file__).parents[2] / "recipes"


def init(folder: Path, name: str | None) -> list[Path]:
    """Writes ``recipe.yaml`` and its three files of rows into ``folder`` and returns them; the recipe is called
    ``name``, or as the folder. Raises UsageError where one of them is there already."""
    sample, rows = SAMPLE / "assistant.yaml", SAMPLE / "assistant"
    if not sample.is_file():
        raise SetupError(f"the sample recipe {sample} is missing; install Junto again")
    called = name or re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_") or "assistant"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", called):
        raise UsageError(f"a run cannot be called {called!r}; give another --name of lower-case letters and digits")
    written = {folder / "data" / file.name: file for file in sorted(rows.glob("*.jsonl"))}
    recipe = folder / "recipe.yaml"
    for path in (recipe, *written):
        if path.exists():
            raise UsageError(f"{path} is there already and is not written over; name another folder")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for path, source in written.items():
        shutil.copyfile(source, path)
    text = sample.read_text(encoding="utf-8").split("\n\n", 1)[1].replace("assistant/", "data/")
    head = (
        f"# junto run align {recipe.name} --dry-run    checks every row and prints the plan; without it, it trains\n\n"
    )
    recipe.write_text(head + re.sub(r"(?m)^name: .*$", f'name: "{called}"', text), encoding="utf-8")
    return [recipe, *written]

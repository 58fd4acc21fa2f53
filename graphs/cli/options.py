"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
RunsRoot = Annotated[Path, typer.Option("--runs-root", envvar="JUNTO_RUNS", show_envvar=True, help="Folder of runs.")]

"""Reads the files of a run directory. Whatever is absent is empty; what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]


class Reader:
    """Reads the files of one run; ``problems`` collects a sentence for each part that cannot be read."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """A file's text, or "" where there is none."""
        path = self.run / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def object(self, name: str) -> Json:
        """A JSON object, or {} where there is none."""
        text = self.text(name)
        if not text.strip():
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{name} is not valid JSON ({error}).")
            return {}
        if isinstance(value, dict):
            return value
        self.problems.append(f"{name} does not hold a JSON object.")
        return {}

    def rows(self, name: str) -> list[Json]:
        """The objects of a JSONL file; lines that a killed process left half-written are counted."""
        rows, broken = [], 0
        for line in self.text(name).splitlines():
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                broken += 1
        if broken:
            self.problems.append(f"{name}: {broken} line{'s' if broken > 1 else ''} could not be read.")
        return rows

    def folder(self, name: str) -> list[tuple[str, Json]]:
        """(file name, object) of each JSON file in a folder, by name."""
        files = sorted((self.run / name).glob("*.json"))
        return [(f.name, value) for f in files if (value := self.object(f"{name}/{f.name}"))]

    def recipe(self) -> tuple[str, Json]:
        """The recipe's text and its parsed form."""
        text = self.text("config.yaml")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            self.problems.append("config.yaml is not valid YAML.")
            value = None
        return text, value if isinstance(value, dict) else {}

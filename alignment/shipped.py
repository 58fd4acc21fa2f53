"""Runs that come with the project, trained: folders under ``adapters/``, beside the packages or in the current
directory, as ``junto export --adapters`` writes them. Free of torch."""

from __future__ import annotations

from pathlib import Path


def shipped() -> dict[str, Path]:
    """Their folders by name; of two of one name, that in the current directory."""
    found: dict[str, Path] = {}
    for place in (Path("adapters"), Path(__file__).parents[1] / "adapters"):
        for config in sorted(place.glob("*/config.yaml")):
            found.setdefault(config.parent.name, config.parent)
    return found

"""The reward table: the reward of every mask of a response. The only place that calls the scorer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from explain import cache
from explain.masks import all_masks, row_keeping
from explain.units import Units

Message = dict[str, str]
Progress = Callable[[int, int], None]  # (texts scored, texts to score)

_BATCH = 64  # texts per call; finished calls are on disk, so an interrupted explanation goes on


class Scorer(Protocol):
    """What turns texts into rewards. An optional attribute `note` says what a reader should know of them."""

    @property
    def fingerprint(self) -> str:
        """Names everything that the rewards depend on: two scorers with one fingerprint score alike."""

    def score(self, prompt: list[Message], texts: list[str]) -> list[float]:
        """One reward per text, taken as the answer to the prompt."""


@dataclass(frozen=True, eq=False)
class RewardTable:
    """Rewards float64[2^d] of `units.render(mask)` as answers to a prompt, in the order of `all_masks(d)`."""

    prompt: list[Message]
    units: Units
    rewards: np.ndarray
    scorer: str  # its fingerprint
    note: str = ""

    @property
    def reward(self) -> float:
        """The reward of the whole response."""
        return float(self.rewards[0])

    @property
    def baseline(self) -> float:
        """The reward with every unit removed."""
        return float(self.rewards[-1])

    def keeping(self, kept: Sequence[int]) -> float:
        """The reward with exactly these units kept."""
        return float(self.rewards[row_keeping(kept, len(self.units))])

    def to_json(self) -> dict[str, Any]:
        units = asdict(self.units) | {"spans": [list(span) for span in self.units.spans]}
        return {
            "prompt": self.prompt,
            "units": units,
            "rewards": self.rewards.tolist(),
            "scorer": self.scorer,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RewardTable:
        spans = tuple((start, end) for start, end in data["units"]["spans"])
        units = Units(data["units"]["text"], spans, data["units"]["kind"])
        return cls(data["prompt"], units, np.array(data["rewards"], dtype=float), data["scorer"], data["note"])


def fill(
    scorer: Scorer,
    prompt: list[Message],
    units: Units,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> RewardTable:
    """Score every mask. Equal texts are scored once; what `cache_dir` knows is not scored again.

    Raises ValueError where the scorer does not answer one finite number per text.
    """
    masks = all_masks(len(units))
    texts = [units.render(mask) for mask in masks]
    keys = {text: cache.key(scorer.fingerprint, prompt, text) for text in texts}
    path = cache.file_for(cache_dir, scorer.fingerprint) if cache_dir is not None else None
    known = cache.read(path) if path is not None else {}
    missing = [text for text in keys if keys[text] not in known]
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        fresh = dict(zip((keys[text] for text in batch), _score(scorer, prompt, batch), strict=True))
        known |= fresh
        if path is not None:
            cache.append(path, fresh)
        if progress is not None:
            progress(start + len(batch), len(missing))
    rewards = np.array([known[keys[text]] for text in texts], dtype=float)
    return RewardTable(prompt, units, rewards, scorer.fingerprint, getattr(scorer, "note", ""))


def _score(scorer: Scorer, prompt: list[Message], texts: list[str]) -> list[float]:
    rewards = [float(reward) for reward in scorer.score(prompt, texts)]
    if len(rewards) != len(texts):
        raise ValueError(f"The scorer answered {len(rewards)} rewards for {len(texts)} texts.")
    if not all(map(math.isfinite, rewards)):
        raise ValueError("The reward model answered a value that is not a finite number; retrain or repair it.")
    return rewards

"""Asking for rewards: the only place that calls the scorer. Equal texts are asked once, and kept on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from explain import cache
from explain.units import Units

Message = dict[str, str]
Progress = Callable[[int, int], None]  # (texts scored, texts to score)
Ask = Callable[[np.ndarray], np.ndarray]  # bool[n, d] -> float64[n]

_BATCH = 64  # texts per call; finished calls are on disk, so an interrupted explanation goes on


class Scorer(Protocol):
    """What turns texts into rewards. An optional attribute `note` says what a reader should know of them."""

    @property
    def fingerprint(self) -> str:
        """Names everything that the rewards depend on: two scorers with one fingerprint score alike."""

    def score(self, prompt: list[Message], texts: list[str]) -> list[float]:
        """One reward per text, taken as the answer to the prompt."""


class Rewards:
    """The rewards of masks over units, asked for as they are wanted: `rewards(masks)` is float64[n] of bool[n, d].

    Every text is asked once in the life of this object, and not at all where `cache_dir` knows it. A batch that
    does not fit the memory is halved, and so are all after it.

    Raises ValueError where the scorer does not answer one finite number per text.
    """

    def __init__(
        self,
        scorer: Scorer,
        prompt: list[Message],
        units: Units,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.scorer, self.prompt, self.units, self.progress = scorer, prompt, units, progress
        self._path = cache.file_for(cache_dir, scorer.fingerprint) if cache_dir is not None else None
        self._kept = cache.read(self._path) if self._path is not None else {}
        self._known: dict[str, float] = {}
        self._batch = _BATCH

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        texts = [self.units.render(mask) for mask in masks]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._ask(new)
        return np.array([self._known[text] for text in texts], dtype=float)

    def _ask(self, texts: list[str]) -> None:
        keys = {text: cache.key(self.scorer.fingerprint, self.prompt, text) for text in texts} if self._path else {}
        self._known |= {text: self._kept[keys[text]] for text in keys if keys[text] in self._kept}
        missing = [text for text in texts if text not in self._known]
        done = 0
        while done < len(missing):
            batch = missing[done : done + self._batch]
            try:
                fresh = dict(zip(batch, _score(self.scorer, self.prompt, batch), strict=True))
            except Exception as error:
                if len(batch) == 1 or not _out_of_memory(error):
                    raise
                self._batch = len(batch) // 2
                continue
            self._known |= fresh
            if self._path is not None:
                cache.append(self._path, {keys[text]: reward for text, reward in fresh.items()})
            done += len(batch)
            if self.progress is not None:
                self.progress(done, len(missing))


def _score(scorer: Scorer, prompt: list[Message], texts: Sequence[str]) -> list[float]:
    rewards = [float(reward) for reward in scorer.score(prompt, list(texts))]
    if len(rewards) != len(texts):
        raise ValueError(f"The scorer answered {len(rewards)} rewards for {len(texts)} texts.")
    if not all(map(math.isfinite, rewards)):
        raise ValueError("The reward model answered a value that is not a finite number; retrain or repair it.")
    return rewards


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether this, or what caused it, says that memory ran out; torch's error is known by its name."""
    while error is not None:
        if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
            return True
        error = error.__cause__
    return False

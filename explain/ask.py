"""Asking for rewards: the only place that calls the scorer. Equal texts are asked once, and kept on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from explain import cache
from explain.perturb import Infill, renderer
from explain.units import Units

Message = dict[str, str]
Progress = Callable[[int, int], None]  # (texts scored, texts to score)

_BATCH = 256  # texts per call; finished calls are on disk, so an interrupted explanation goes on


class Scorer(Protocol):
    """What turns texts into rewards. An optional attribute `note` says what a reader should know of them."""

    @property
    def fingerprint(self) -> str:
        """Names everything that the rewards depend on: two scorers with one fingerprint score alike."""

    def score(self, prompt: list[Message], texts: list[str]) -> list[float]:
        """One reward per text, taken as the answer to the prompt."""


class Rewards:
    """The rewards of masks over units, asked for as they are wanted: `rewards(masks)` is float64[n] of bool[n, d].

    perturbation, infill: see explain.perturb. response: where it is given, the units are those of the last user
    message of the prompt, and this is the answer that stays; else they are those of the answer.

    Every text is asked once in the life of this object, and not at all where `cache_dir` knows it. A batch that
    does not fit the memory is halved, and so are all after it.

    Raises ValueError where the scorer does not answer one finite number per text, and what `renderer` raises.
    """

    def __init__(
        self,
        scorer: Scorer,
        prompt: list[Message],
        units: Units,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
        *,
        perturbation: str = "remove",
        infill: Infill | None = None,
        response: str | None = None,
    ) -> None:
        self.scorer, self.prompt, self.units, self.progress = scorer, prompt, units, progress
        self.perturbation, self.response = perturbation, response
        self._cache_dir = cache_dir
        if infill is not None and perturbation == "infill" and not isinstance(infill, _Remembered):
            infill = _Remembered(infill, prompt, cache_dir)
        self._infill = infill
        self.text = renderer(perturbation, units, infill)
        self._path = cache.file_for(cache_dir, scorer.fingerprint) if cache_dir is not None else None
        self._kept = cache.read(self._path) if self._path is not None else {}
        self._known: dict[str, float] = {}
        self._batch = _BATCH

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        texts = [self.text(mask) for mask in masks]
        self._ask([text for text in dict.fromkeys(texts) if text not in self._known])
        return np.array([self._known[text] for text in texts], dtype=float)

    def over(self, units: Units, scorer: Scorer | None = None) -> Rewards:
        """The same for other units, or by another scorer."""
        return Rewards(
            scorer or self.scorer,
            self.prompt,
            units,
            self._cache_dir,
            self.progress,
            perturbation=self.perturbation,
            infill=self._infill,
            response=self.response,
        )

    def _ask(self, texts: list[str]) -> None:
        keys = {text: self._key(text) for text in texts} if self._path else {}
        self._known |= {text: self._kept[keys[text]] for text in keys if keys[text] in self._kept}
        # In this order neighbours begin alike, and a scorer that computes shared beginnings once has least to do.
        missing = sorted(text for text in texts if text not in self._known)
        done = 0
        while done < len(missing):
            batch = missing[done : done + self._batch]
            try:
                fresh = dict(zip(batch, self._score(batch), strict=True))
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

    def _question(self, text: str) -> tuple[list[Message], str]:
        """The prompt and the answer that a rendered text stands for."""
        return (self.prompt, text) if self.response is None else (with_question(self.prompt, text), self.response)

    def _key(self, text: str) -> str:
        return cache.key(self.scorer.fingerprint, *self._question(text))

    def _score(self, texts: list[str]) -> list[float]:
        if self.response is None:
            answers = self.scorer.score(self.prompt, texts)
        else:
            asked = [self._question(text) for text in texts]
            each = getattr(self.scorer, "score_each", None)  # optional: many prompts in one call
            if each is not None:
                answers = each([prompt for prompt, _ in asked], [answer for _, answer in asked])
            else:
                answers = [reward for prompt, answer in asked for reward in self.scorer.score(prompt, [answer])]
        return finite(answers, len(texts))


def finite(rewards: Sequence[float], wanted: int) -> list[float]:
    """The rewards as floats. Raises ValueError where there are not so many, or one is no finite number."""
    numbers = [float(reward) for reward in rewards]
    if len(numbers) != wanted:
        raise ValueError(f"The scorer answered {len(numbers)} rewards for {wanted} texts.")
    if not all(map(math.isfinite, numbers)):
        raise ValueError("The reward model answered a value that is not a finite number; retrain or repair it.")
    return numbers


def question(prompt: Sequence[Message]) -> str:
    """The last user message of a prompt. Raises ValueError where there is none."""
    return prompt[_asked(prompt)]["content"]


def shown_question(prompt: Sequence[Message]) -> str:
    """The same for the eye: empty where there is none, as before a plain text."""
    return question(prompt) if any(message["role"] == "user" for message in prompt) else ""


def with_question(prompt: Sequence[Message], text: str) -> list[Message]:
    """The prompt with another last user message."""
    at = _asked(prompt)
    return [*prompt[:at], {**prompt[at], "content": text}, *prompt[at + 1 :]]


def _asked(prompt: Sequence[Message]) -> int:
    found = [at for at, message in enumerate(prompt) if message["role"] == "user"]
    if not found:
        raise ValueError("The prompt has no user message whose parts could be explained.")
    return found[-1]


class _Remembered:
    """An infill that is asked once for each text with gaps, also across processes where there is a cache."""

    def __init__(self, infill: Infill, prompt: list[Message], cache_dir: Path | None) -> None:
        self._infill, self._prompt = infill, prompt
        self.fingerprint = getattr(infill, "fingerprint", "")  # without one nothing is kept on disk
        folder = cache_dir if self.fingerprint else None
        self._path = cache.file_for(folder, self.fingerprint, "infills") if folder is not None else None
        self._known = cache.read(self._path, cache.is_texts) if self._path is not None else {}

    def __call__(self, pieces: list[str], which: list[int]) -> list[str]:
        key = cache.key(self.fingerprint, self._prompt, json.dumps([pieces, which]))
        if key not in self._known:
            self._known[key] = list(self._infill(pieces, which))
            if self._path is not None:
                cache.append(self._path, {key: self._known[key]})
        return self._known[key]


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether this, or what caused it, says that memory ran out; torch's error is known by its name."""
    while error is not None:
        if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
            return True
        error = error.__cause__
    return False

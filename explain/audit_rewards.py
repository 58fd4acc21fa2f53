"""Rewards of many answers to many prompts, kept on disk as those of `explain.table` are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol, runtime_checkable

from explain import cache
from explain.ask import Message, Progress, Scorer, finite

Asked = tuple[list[Message], str]  # a prompt and an answer to it

_BATCH = 64  # answers to one prompt per call; each call's rewards are on disk before the next


@runtime_checkable
class Comparer(Protocol):
    """A scorer that can also see two answers side by side, as a judge does that reads them in one order."""

    def compare(self, prompt: list[Message], first: str, second: str) -> tuple[float, float]:
        """The rewards of both answers, shown in this order."""


def rewards_of(
    scorer: Scorer, asked: Sequence[Asked], cache_dir: Path | None = None, progress: Progress | None = None
) -> list[float]:
    """One reward per (prompt, answer). Equal ones are scored once; what `cache_dir` knows is not scored again, so
    that an interrupted audit goes on where it was. Answers to one prompt should stand together.

    Raises ValueError where the scorer does not answer one finite number per text.
    """
    keys = [cache.key(scorer.fingerprint, prompt, text) for prompt, text in asked]
    path = cache.file_for(cache_dir, scorer.fingerprint) if cache_dir is not None else None
    known = cache.read(path) if path is not None else {}
    missing = {key: one for key, one in zip(keys, asked, strict=True) if key not in known}
    done = 0
    for batch in _batches(missing):
        texts = [text for _, (_, text) in batch]
        found = finite(scorer.score(batch[0][1][0], texts), len(texts))
        fresh = dict(zip((key for key, _ in batch), found, strict=True))
        known |= fresh
        if path is not None:
            cache.append(path, fresh)
        done += len(batch)
        if progress is not None:
            progress(done, len(missing))
    return [known[key] for key in keys]


def _batches(missing: dict[str, Asked]) -> Iterator[list[tuple[str, Asked]]]:
    for _, group in groupby(missing.items(), key=lambda item: item[1][0]):
        rows = list(group)
        for start in range(0, len(rows), _BATCH):
            yield rows[start : start + _BATCH]

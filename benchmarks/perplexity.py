"""Perplexity on plain text, web pages of C4 (ODC-BY): what a tuned model still knows of the rest of language."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignment.run_dir import read_rows
from alignment.statistics import paired_bootstrap

DATA = Path(os.environ.get("JUNTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
SOURCE = DATA / "c4-wiki-demo" / "c4_demo.jsonl"
READ = 256  # tokens of each document


def documents() -> list[str]:
    """All texts; none where the data are not there."""
    return [row["text"] for row in read_rows(SOURCE)]


def token_losses(backbone: Any, role: str, documents: Sequence[str]) -> list[list[float]]:
    """Negative log-probabilities in nats of the first tokens of each document but the first one."""
    import torch

    from alignment.batch import pad, token_logprobs

    rows = [backbone.chat.text_ids(text)[:READ] for text in documents]
    found: list[list[float]] = []
    with backbone.role(role), torch.no_grad():
        for start in range(0, len(rows), 4):
            ids, mask = pad(rows[start : start + 4], backbone.chat.pad_id, rounded=True)
            wanted = mask.bool()
            wanted[:, 0] = False
            logp = token_logprobs(backbone, ids, mask, wanted)
            found += [(-logp[i][wanted[i]]).tolist() for i in range(len(ids))]
    return found


def mean(losses: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Exponential of the mean loss per token, with its interval over documents."""
    total, tokens = np.array([sum(d) for d in losses]), np.array([len(d) for d in losses])
    found = paired_bootstrap(lambda rows: float(np.exp(total[rows].sum() / tokens[rows].sum())), len(losses))
    assert found is not None
    return found


def ratio(losses: Sequence[Sequence[float]], before: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Perplexity over that of ``before`` on the same tokens, paired by document."""
    change = np.array([sum(a) - sum(b) for a, b in zip(losses, before, strict=True)])
    tokens = np.array([len(d) for d in losses])
    found = paired_bootstrap(lambda rows: float(np.exp(change[rows].sum() / tokens[rows].sum())), len(losses))
    assert found is not None
    return found

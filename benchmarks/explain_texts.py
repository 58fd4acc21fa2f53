"""The texts of ``benchmarks.explain``."""

from __future__ import annotations

import random
from typing import Any

from alignment.engine import Engine
from benchmarks.gold_score import PLEASANT, UNPLEASANT
from benchmarks.reward import DATA, hh_rlhf

PROMPT, ANSWER = 256, 128  # tokens aimed at

Pair = tuple[list[dict[str, str]], str]  # prompt and answer


def pairs(engine: Engine, count: int) -> tuple[list[Pair], str]:
    """Prompts and answers of about ``PROMPT`` and ``ANSWER`` tokens, and where they come from: the chosen answers of
    hh-rlhf nearest to these lengths, or words that are drawn."""
    chat, path = engine.backbone.chat, DATA / "hh-rlhf" / "test.jsonl.gz"
    if not path.is_file():
        drawn = [random.Random(i).choices(sorted(PLEASANT | UNPLEASANT), k=PROMPT + ANSWER) for i in range(count)]
        made = [([{"role": "user", "content": " ".join(w[:PROMPT])}], " ".join(w[PROMPT:])) for w in drawn]
        return made, f"drawn words, since there is no {path}; set JUNTO_DATA"
    train, held_out, _ = hh_rlhf(path)

    def distance(row: dict[str, Any]) -> int:
        prompt, answer = chat.prompt_ids(row["prompt"]), chat.text_ids(row["chosen"].rstrip())
        return abs(len(prompt) - PROMPT) + abs(len(answer) - ANSWER)

    nearest = sorted([*train, *held_out], key=distance)[:count]
    return [(row["prompt"], row["chosen"].rstrip()) for row in nearest], "hh-rlhf, chosen answers"


def long_text(engine: Engine, words: int) -> str:
    """So many words of answers of the same source."""
    return " ".join(" ".join(answer for _, answer in pairs(engine, 20)[0]).split()[:words])

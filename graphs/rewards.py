"""Where scores come from: the reward model of the engine, or a recipe's Python functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from alignment.chat_format import ChatFormat
from alignment.config import PPOConfig, RewardConfig
from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.reward_metrics import pair_results, score_results
from alignment.rows import scored_texts
from alignment.run_dir import RunDir
from alignment.scoring import Prompt, Scorer, function_scorer
from graphs.modules import load_function
from graphs.tasks import Row


def scorer(config: RewardConfig, engine: Engine) -> Scorer:
    """The function that the recipe names, or the engine's reward model."""
    if config.function is None:
        return engine.score
    found = load_function(config.function)
    return function_scorer(found.call, found.name)


def gold_scorer(config: PPOConfig) -> Scorer | None:
    """The score that PPO is measured by and not trained on, where the recipe names one."""
    if config.gold is None:
        return None
    found = load_function(config.gold, what="gold function")
    return function_scorer(found.call, found.name, "gold function")


class FunctionScorer:
    """A recipe's reward function as what explanations ask; ``fingerprint`` is of the file that it is in."""

    note = ""

    def __init__(self, function: str) -> None:
        found = load_function(function)
        self.fingerprint = json.dumps({"function": found.name, "sha256": found.sha256})
        self._score = function_scorer(found.call, found.name)

    def score(self, prompt: Prompt, texts: list[str]) -> list[float]:
        return self._score([prompt] * len(texts), texts)


def function_results(config: RewardConfig, rows: Sequence[Row], chat: ChatFormat) -> dict[str, Any]:
    """Which function it is, and its figures on held-out pairs or scores, where the task has some."""
    assert config.function is not None
    found = load_function(config.function)
    results: dict[str, Any] = {"function": found.name, "function_sha256": found.sha256}
    if not rows:
        return results
    score = function_scorer(found.call, found.name)

    def rewards(texts: Sequence[tuple[Any, str]]) -> tuple[list[float], list[int]]:
        prompts, responses = zip(*texts, strict=True)
        return score(prompts, responses), [len(chat.text_ids(text)) for text in responses]

    if "chosen" not in rows[0]:
        scored = [(row["prompt"], *one) for row in rows for one in scored_texts(row)]
        found_scores, lengths = rewards([(prompt, text) for prompt, text, _ in scored])
        return results | score_results(found_scores, [value for _, _, value in scored], lengths)
    (chosen, first), (rejected, second) = (
        rewards([(r["prompt"], r[side]) for r in rows]) for side in ("chosen", "rejected")
    )
    return results | pair_results(chosen, rejected, first + second)


def refuse_changed_function(config: RewardConfig, run: RunDir) -> None:
    """Raises UsageError where the reward stage is done and the function's file has changed since."""
    before = run.results("reward").get("function_sha256")
    assert config.function is not None
    if run.done("reward") and load_function(config.function).sha256 != before:
        raise UsageError(
            f"the file of the reward function {config.function} has changed since this run began; put it back, "
            "or add --fresh to start over"
        )

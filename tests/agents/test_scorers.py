"""What scorers say of lines that are known to be right or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.scorers import VERDICTS, Line, scorer
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.engine import Engine
from graphs.tasks import chains, game24

PUZZLE = "4 7 8 8"
RIGHT = ("8 / 8 = 1 (left: 4 7 1)", "7 - 1 = 6 (left: 4 6)", "4 * 6 = 24 (left: 24)")
STORY = "Ana has 12 pencils. She buys 3 boxes of 4 pencils. How many pencils does Ana have?"
TOLD = ("3 * 4 = 12 pencils", "12 + 12 = 24 pencils", "ANSWER: 24")
SLIPPED = ("3 * 4 = 13 pencils", "12 + 13 = 25 pencils", "ANSWER: 25")


def lines(steps: tuple[str, ...], finished: bool) -> Line:
    return Line(steps, -1.0, 10, finished)


@pytest.mark.parametrize(
    ("name", "task", "question", "steps", "finished", "score"),
    [
        ("checker", game24, PUZZLE, RIGHT[:1], False, 1.0),
        ("checker", game24, PUZZLE, RIGHT[:1], True, 0.0),  # an end that leaves three numbers is none
        ("checker", game24, PUZZLE, RIGHT, True, 2.0),
        ("checker", chains, STORY, TOLD, True, 2.0),
        ("checker", chains, STORY, TOLD[:2], True, 0.0),
        ("checker", chains, STORY, SLIPPED, True, 0.0),  # the last steps agree with a wrong first one
        ("oracle", game24, PUZZLE, RIGHT[:1], False, 1.0),
        ("oracle", game24, PUZZLE, RIGHT[:1], True, 0.0),
        ("oracle", game24, PUZZLE, RIGHT, True, 1.0),
    ],
)
def test_of_known_lines(name: str, task: Any, question: str, steps: Any, finished: bool, score: float) -> None:
    assert scorer(name, None, task)(question, [lines(steps, finished)]) == [score]


def test_the_model_that_writes_is_asked(tiny_model: Path) -> None:
    backbone = Backbone(BackboneConfig(model=str(tiny_model), quantization="none", lora=LoraSettings(rank=2)))
    backbone.add_role("sft", seed=0)  # there is no policy
    with Engine(backbone) as engine:
        found = scorer("llm", engine, game24)(PUZZLE, [lines(RIGHT[:1], False)])
    assert min(VERDICTS.values()) <= found[0] <= max(VERDICTS.values())

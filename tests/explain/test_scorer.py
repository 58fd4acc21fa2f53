from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from explain.score import EngineScorer


def test_the_engine_scorer_names_its_role_and_dtype() -> None:
    class Engine:  # the two attributes and the one method that the scorer uses
        roles = ("base", "reward")

        def __init__(self, dtype: str) -> None:
            self.fingerprint = {"compute_dtype": dtype, "backbone": "abc"}

        def score(self, prompts, responses, role):
            assert len(prompts) == len(responses) and role == "reward"
            return [float(len(response)) for response in responses]

    exact, rough = EngineScorer(Engine("float32")), EngineScorer(Engine("bfloat16"))
    assert exact.score([{"role": "user", "content": "?"}], ["", "abc"]) == [0.0, 3.0]
    assert exact.note == "" and "bfloat16" in rough.note
    assert exact.fingerprint != rough.fingerprint
    with pytest.raises(ValueError, match="no value role"):
        EngineScorer(Engine("float32"), role="value")


def test_the_import_is_light() -> None:
    code = (
        "import sys, explain, explain.render, explain.score; heavy = "
        "('torch', 'lime', 'alibi', 'sklearn', 'scipy', 'pydantic', 'rich'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

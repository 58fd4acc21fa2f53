from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.engine import Engine
from alignment.errors import UsageError
from explain import explain_text
from explain.ask import Rewards
from explain.masks import all_masks
from explain.perturb import remove
from explain.score import EngineScorer, RandomHeadScorer
from explain.table import exact_table
from explain.units import segment


def test_the_engine_scorer_names_its_role_and_dtype() -> None:
    class Fake:  # the two attributes and the one method that the scorer uses
        roles = ("base", "reward")

        def __init__(self, dtype: str) -> None:
            self.fingerprint = {"compute_dtype": dtype, "backbone": "abc"}

        def score(self, prompts, responses, role):
            assert len(prompts) == len(responses) and role == "reward"
            return [float(len(response)) for response in responses]

    exact, rough = EngineScorer(Fake("float32")), EngineScorer(Fake("bfloat16"))
    assert exact.score([{"role": "user", "content": "?"}], ["", "abc"]) == [0.0, 3.0]
    assert exact.note == "" and "bfloat16" in rough.note
    assert exact.fingerprint != rough.fingerprint
    with pytest.raises(ValueError, match="no value role"):
        EngineScorer(Fake("float32"), role="value")


def test_the_import_is_light() -> None:
    code = (
        "import sys, explain, explain.render, explain.render_png, explain.score; heavy = "
        "('torch', 'lime', 'alibi', 'sklearn', 'scipy', 'pydantic', 'rich', 'matplotlib'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    backbone = Backbone(
        BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    )
    backbone.add_role("reward", seed=0)
    for parameter in backbone.parameters("reward"):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    with Engine(backbone) as engine:
        yield engine


TEXT = "10 - 4 = 6 (left: 5 6 6)\n4 7 8 8\nthe quick brown fox\nMake 24.\n"
PROMPT = [{"role": "user", "content": "4 7 8 8. Make 24."}]


def test_a_real_model_gives_one_table_however_it_is_asked(engine: Engine, tmp_path: Path) -> None:
    """One at a time, in batches, from the cache, of the prompt: the same rewards to 1e-5 in float32."""
    scorer, units = EngineScorer(engine), segment(TEXT)
    whole = exact_table(Rewards(scorer, PROMPT, units)).rewards
    alone = [scorer.score(PROMPT, [remove(units, mask)])[0] for mask in all_masks(4)]
    kept = [exact_table(Rewards(scorer, PROMPT, units, tmp_path)).rewards for _ in range(2)]
    assert np.abs(whole - alone).max() < 1e-5 and np.abs(whole - kept[0]).max() < 1e-5
    assert kept[0].tobytes() == kept[1].tobytes() and np.ptp(whole) > 0.01

    asked = segment(PROMPT[0]["content"])
    of_prompt = exact_table(Rewards(scorer, PROMPT, asked, response="the quick fox")).rewards
    by_hand = [
        scorer.score([{"role": "user", "content": remove(asked, mask)}], ["the quick fox"])[0]
        for mask in all_masks(len(asked))
    ]
    assert np.abs(of_prompt - by_hand).max() < 1e-5


def test_what_is_longer_than_the_window_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"have [\d,]+ tokens together, and the model reads 512; shorten them"):
        explain_text(EngineScorer(engine), PROMPT, "the quick brown fox. " * 2500, beam=False)


def test_a_random_head_is_another_model_and_the_trained_one_stays(engine: Engine) -> None:
    scorer, fresh = EngineScorer(engine), RandomHeadScorer(engine, seed=1)
    before = scorer.score(PROMPT, [TEXT, "4"])
    other = fresh.score(PROMPT, [TEXT, "4"])
    assert fresh.fingerprint != scorer.fingerprint != RandomHeadScorer(engine, seed=2).fingerprint
    assert np.abs(np.subtract(before, other)).max() > 1e-3 and scorer.score(PROMPT, [TEXT, "4"]) == before
    assert RandomHeadScorer(engine, seed=1).score(PROMPT, [TEXT, "4"]) == other
    with pytest.raises(ValueError):
        fresh.score_each([PROMPT], ["a", "b"])
    assert scorer.score(PROMPT, [TEXT, "4"]) == before  # also after a failure
    found = explain_text(scorer, PROMPT, TEXT, beam=False, randomised=fresh)
    assert -1 <= found.faithfulness.randomised_spearman <= 1

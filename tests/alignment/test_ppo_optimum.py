"""Every algorithm against the exact optimum of a language that can be added up."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alignment.config import PPOConfig
from alignment.engine import Engine
from alignment.ppo import train_ppo
from alignment.run_dir import RunDir

STEADY: dict[str, Any] = {"iterations": 40, "learning_rate": 5e-3, "value_learning_rate": 1e-2}
BUDGETS: dict[str, tuple[dict[str, Any], float]] = {
    "ppo": (STEADY | {"iterations": 60, "learning_rate": 3e-3, "minibatches": 4, "target_kl": None}, 0.99),
    "a2c": (STEADY, 0.95),
    "rloo": (STEADY | {"samples_per_prompt": 4}, 0.95),
    "reinforce": (STEADY, 0.95),
}


def load_toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("junto_toy", Path(__file__).with_name("toy.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = load_toy()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
@pytest.mark.parametrize("algorithm", BUDGETS)
def test_it_closes_the_gap_to_the_optimum(algorithm: str, seed: int, tmp_path: Path) -> None:
    budget, share = BUDGETS[algorithm]
    config = PPOConfig(
        algorithm=algorithm, batch_size=256, max_tokens=3, kl_coef=toy.BETA, missing_eos_penalty=0.0, **budget
    )
    backbone = toy.make(tmp_path / "model", seed)
    run = RunDir(tmp_path / "run")
    run.create("", {})
    with Engine(backbone) as engine:
        train_ppo(
            engine, config, [toy.ROW], lambda question, text: None, run, seed, lambda event: None, score=toy.score
        )
    assert toy.gap_closed(backbone) >= share


def test_the_optimum_is_one(tmp_path: Path) -> None:
    """pi* = pi_ref exp(r / beta) / Z reaches J*, and no mixture with the reference does."""
    backbone = toy.make(tmp_path / "model", 0)
    ref, rewards = toy.distribution(backbone, "sft"), toy.rewards(backbone)
    best = ref + rewards / toy.BETA
    best = best - best.logsumexp(0)

    def value(logp: Any) -> float:
        return float((logp.exp() * (rewards - toy.BETA * (logp - ref))).sum())

    assert value(best) == pytest.approx(toy.optimum(backbone), abs=1e-6)
    for share in (0.1, 0.5):
        mixed = ((1 - share) * best.exp() + share * ref.exp()).log()
        assert value(mixed) < toy.optimum(backbone)

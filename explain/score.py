"""The reward model as a scorer: the only file of this package that knows of models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.engine import Engine


class EngineScorer:
    """Rewards of one role of an engine.

    `note` warns where the rewards are not computed in float32. Raises ValueError for a role that the model
    lacks.
    """

    def __init__(self, engine: Engine, role: str = "reward") -> None:
        if role not in engine.roles:
            raise ValueError(
                f"This model has no {role} role (it has {', '.join(engine.roles)}); "
                "name a run whose reward stage is done."
            )
        self._engine, self._role = engine, role
        identity = engine.fingerprint  # hashes every adapter, so it is read once
        # It names the compute dtype: rewards in bfloat16 are never taken for rewards in float32.
        self.fingerprint: str = json.dumps({"engine": identity, "role": role}, sort_keys=True)
        dtype = identity["compute_dtype"]
        self.note = (
            ""
            if dtype == "float32"
            else f"Rewards were computed in {dtype}: its rounding noise can flip anchors and close margins."
        )

    def score(self, prompt: list[dict[str, str]], texts: list[str]) -> list[float]:
        return self._engine.score([prompt] * len(texts), texts, role=self._role)

    def score_each(self, prompts: list[list[dict[str, str]]], texts: list[str]) -> list[float]:
        """One reward per prompt and text, where the prompt is what is explained."""
        return self._engine.score(prompts, texts, role=self._role)


class RandomHeadScorer(EngineScorer):
    """The same model with a head that was drawn anew: what weights owe to the head, they must not have here.

    The head has the scale of the trained one. The trained one is out of place while this scores, so nothing else may
    score meanwhile.
    """

    def __init__(self, engine: Engine, role: str = "reward", seed: int = 0) -> None:
        import torch

        super().__init__(engine, role)
        trained = engine.backbone.heads[role]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(trained.weight.shape, generator=generator) * trained.weight.detach().std().cpu()
        self._head = torch.nn.Linear(trained.in_features, trained.out_features, dtype=torch.float32)
        with torch.no_grad():
            self._head.weight.copy_(drawn)
            self._head.bias.zero_()
        self._head.to(trained.weight.device)
        self.fingerprint = json.dumps({"random head": seed, "of": self.fingerprint})

    def score(self, prompt: list[dict[str, str]], texts: list[str]) -> list[float]:
        return self.score_each([prompt] * len(texts), texts)

    def score_each(self, prompts: list[list[dict[str, str]]], texts: list[str]) -> list[float]:
        heads = self._engine.backbone.heads
        trained = heads[self._role]
        heads[self._role] = self._head
        try:
            return super().score_each(prompts, texts)
        finally:
            heads[self._role] = trained

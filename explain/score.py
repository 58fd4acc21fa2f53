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

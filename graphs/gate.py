"""Gates of the ``align`` graph: what the figures of a stage have to be before the next one begins. Free of torch."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from alignment.config import PPOConfig, RewardConfig, Settings, SFTConfig

SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# by the first part of a figure's name: the stage whose results hold it, and the stage that is trained again
MEASURED = {"sft": "sft", "reward": "reward", "validation": "evaluate"}
TRAINED = {"sft": "sft", "reward": "reward", "evaluate": "ppo"}
SECTIONS: dict[str, type[Settings]] = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}


class Bound(NamedTuple):
    """``sign`` and a number, or so many times the figure of the SFT model on the same prompts."""

    sign: str
    number: float
    of_sft: bool = False

    def __str__(self) -> str:
        if not self.of_sft:
            return f"{self.sign} {self.number:g}"
        return f"{self.sign} sft" if self.number == 1 else f"{self.sign} {self.number:g} * sft"


def bound(text: str) -> Bound:
    """Of ``>= 0.6``, ``>= sft`` or ``<= 1.1 * sft``. Raises ValueError."""
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    found = re.fullmatch(rf"\s*(>=|<=|>|<)\s*(?:({number})\s*(\*\s*sft)?|(sft))\s*", text)
    if found is None:
        raise ValueError(f"{text!r} is no bound; write it as '>= 0.6', '>= sft' or '<= 1.1 * sft'")
    return Bound(found[1], float(found[2] or 1.0), bool(found[3] or found[4]))


class GateConfig(Settings):
    """What held-out figures have to be for the run to go on; otherwise the stage is trained again with other settings,
    or the run ends and says why."""

    require: dict[str, str] = Field(
        default_factory=dict,
        description="figure -> bound: sft.perplexity, reward.pair_accuracy, validation.reward, validation.solved, "
        "validation.kl, validation.plain-text, validation.knowledge, validation.sense -> '<= 3' or '>= sft'",
    )
    ask_before: list[Literal["reward", "ppo", "evaluate"]] = Field(
        default_factory=list, description="stages before which a person decides whether the run goes on"
    )
    retries: int = Field(0, ge=0, le=5, description="times that a stage is trained again")
    change: dict[str, float] = Field(
        default_factory=dict, description="setting -> factor for each time, such as ppo.learning_rate: 0.5"
    )

    @field_validator("require")
    @classmethod
    def _bounds(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            first, _, rest = name.partition(".")
            if first not in MEASURED or not rest:
                raise ValueError(f"{name!r} is no figure; it begins with sft., reward. or validation.")
            if bound(text).of_sft and first != "validation":
                raise ValueError(f"{name} {text}: only the figures of validation. have the SFT model beside them")
        return value

    @field_validator("change")
    @classmethod
    def _settings(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            section, _, key = name.partition(".")
            field = SECTIONS[section].model_fields.get(key) if section in SECTIONS else None
            if field is None or float not in (field.annotation, *getattr(field.annotation, "__args__", ())):
                raise ValueError(f"{name!r} is no setting that can be multiplied; name one such as ppo.learning_rate")
        return value


class Missed(NamedTuple):
    """A figure that is not as required."""

    name: str
    value: float
    bound: Bound
    limit: float

    def __str__(self) -> str:
        limit = f" ({self.limit:.4g})" if self.bound.of_sft else ""
        return f"{self.name} is {self.value:.4g}, and the recipe requires {self.bound}{limit}"


def missed(config: GateConfig, stage: str, results: Mapping[str, Any]) -> list[Missed]:
    """Which requirements the results of ``stage`` do not meet. Raises KeyError for a figure that they do not have."""
    found = []
    for name, text in config.require.items():
        first, _, key = name.partition(".")
        if MEASURED[first] != stage:
            continue
        wanted = bound(text)
        value, reference = _figure(results, key)
        if value is None or (wanted.of_sft and reference is None):
            raise KeyError(name)
        limit = wanted.number * (reference if wanted.of_sft and reference is not None else 1.0)
        if not SIGNS[wanted.sign](value, limit):
            found.append(Missed(name, value, wanted, limit))
    return found


def _figure(results: Mapping[str, Any], key: str) -> tuple[float | None, float | None]:
    """A figure, and that of the SFT model beside it."""
    found = results[key] if key in results else (results.get("ability") or {}).get(key)
    if isinstance(found, Mapping) and "policy" in found:
        return number_of(found["policy"]), number_of(found["sft"])
    return number_of(found), None


def number_of(found: Any) -> float | None:
    """A figure that is a number, or the estimate of one with an interval; None for anything else."""
    value = found.get("value") if isinstance(found, Mapping) else found
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

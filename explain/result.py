"""What an explanation is, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from explain.anchors import AnchorExplanation
from explain.faithful import Faithfulness
from explain.lime import LimeExplanation

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TextExplanation:
    """Why a response has its reward. `scorer` is the fingerprint of what computed the rewards."""

    prompt: list[dict[str, str]]
    lime: LimeExplanation
    anchor: AnchorExplanation
    faithfulness: Faithfulness
    scorer: str
    note: str = ""


@dataclass(frozen=True)
class Side:
    """One of two responses. lime explains its own reward; margin_weights are what its units add to the margin
    (the rejected response's weights negated)."""

    lime: LimeExplanation
    margin_weights: tuple[float, ...]
    faithfulness: Faithfulness


@dataclass(frozen=True)
class Flip:
    """The fewest units whose removal reverses the preference, and the margin that is left then."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float


@dataclass(frozen=True)
class PairExplanation:
    """Why one response is preferred to another.

    margin: reward of chosen minus reward of rejected; negative where the first candidate is not the better
    one (nothing is swapped), and `preferred` is "chosen", "rejected" or "neither". anchor: units of chosen
    that decide whether it beats rejected. flip: None where no removal reverses the preference.
    """

    prompt: list[dict[str, str]]
    chosen: Side
    rejected: Side
    margin: float
    preferred: str
    anchor: AnchorExplanation
    flip: Flip | None
    scorer: str
    note: str = ""


_KINDS: dict[str, type] = {"text": TextExplanation, "pair": PairExplanation}


def to_json(explanation: TextExplanation | PairExplanation) -> dict[str, Any]:
    """A JSON object with "schema_version" and "kind" ("text" or "pair")."""
    from pydantic import TypeAdapter

    kind = "pair" if isinstance(explanation, PairExplanation) else "text"
    adapter: TypeAdapter[Any] = TypeAdapter(_KINDS[kind])
    body = adapter.dump_python(explanation, mode="json")
    return {"schema_version": SCHEMA_VERSION, "kind": kind, **body}


def from_json(data: dict[str, Any]) -> TextExplanation | PairExplanation:
    """The inverse of `to_json`. Raises ValueError (one sentence) where the object does not fit."""
    from pydantic import TypeAdapter, ValidationError

    known = isinstance(data, dict) and data.get("schema_version") == SCHEMA_VERSION and data.get("kind") in _KINDS
    if not known:
        raise ValueError(f"This is no explanation of schema version {SCHEMA_VERSION}; explain again to make one.")
    body = {name: value for name, value in data.items() if name not in ("schema_version", "kind")}
    try:
        return TypeAdapter(_KINDS[data["kind"]]).validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"The explanation is damaged at {place}: {first['msg'].lower()}.") from None

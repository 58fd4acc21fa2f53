"""What an explanation is, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from explain.anchors import AnchorExplanation
from explain.faithful import Agreement, Faithfulness
from explain.lime import LimeExplanation
from explain.shapley import ShapleyExplanation

SCHEMA_VERSION = 2
_READABLE = (1, 2)  # 1 lacks what has a default here

METHODS = ("lime", "anchor", "shapley", "all")


@dataclass(frozen=True)
class Drill:
    """The words of one unit, the strongest, explained with all else kept."""

    unit: int
    lime: LimeExplanation


@dataclass(frozen=True)
class TextExplanation:
    """Why a response has its reward. `scorer` is the fingerprint of what computed the rewards.

    anchor, shapley: None where `method` did not ask for them. agreement: of the methods with one another and with
    leaving one unit out. perturbation: what happened to units that were off. response: the answer that stayed, where
    the units are those of the prompt, else None.
    """

    prompt: list[dict[str, str]]
    lime: LimeExplanation
    anchor: AnchorExplanation | None
    faithfulness: Faithfulness
    scorer: str
    note: str = ""
    shapley: ShapleyExplanation | None = None
    agreement: tuple[Agreement, ...] = ()
    drill: Drill | None = None
    perturbation: str = "remove"
    response: str | None = None
    method: str = "all"


@dataclass(frozen=True)
class Side:
    """One of two responses. lime and shapley explain its own reward; margin_weights and margin_values are what its
    units add to the margin by LIME and by Shapley (those of the rejected response negated; halved where units were
    swapped, since then either side alone accounts for the whole margin)."""

    lime: LimeExplanation
    margin_weights: tuple[float, ...]
    faithfulness: Faithfulness
    shapley: ShapleyExplanation | None = None
    margin_values: tuple[float, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    drill: Drill | None = None


@dataclass(frozen=True)
class Flip:
    """The fewest units whose removal reverses the preference, and the margin that is left then.

    exact: False where they were searched for, so that fewer may do.
    """

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float
    exact: bool = True


@dataclass(frozen=True)
class PairExplanation:
    """Why one response is preferred to another.

    margin: reward of chosen minus reward of rejected; negative where the first candidate is not the better
    one (nothing is swapped), and `preferred` is "chosen", "rejected" or "neither". anchor: units of chosen
    that decide whether it beats rejected. flip: None where no removal reverses the preference, or, where a table is
    sampled, none was found that does.
    """

    prompt: list[dict[str, str]]
    chosen: Side
    rejected: Side
    margin: float
    preferred: str
    anchor: AnchorExplanation | None
    flip: Flip | None
    scorer: str
    note: str = ""
    perturbation: str = "remove"
    method: str = "all"


_KINDS: dict[str, type] = {"text": TextExplanation, "pair": PairExplanation}


def to_json(explanation: TextExplanation | PairExplanation) -> dict[str, Any]:
    """A JSON object with "schema_version" and "kind" ("text" or "pair")."""
    from pydantic import TypeAdapter

    kind = "pair" if isinstance(explanation, PairExplanation) else "text"
    adapter: TypeAdapter[Any] = TypeAdapter(_KINDS[kind])
    body = adapter.dump_python(explanation, mode="json")
    return {"schema_version": SCHEMA_VERSION, "kind": kind, **body}


def from_json(data: dict[str, Any]) -> TextExplanation | PairExplanation:
    """The inverse of `to_json`; also of version 1. Raises ValueError (one sentence) where the object does not fit."""
    from pydantic import TypeAdapter, ValidationError

    known = isinstance(data, dict) and data.get("schema_version") in _READABLE and data.get("kind") in _KINDS
    if not known:
        raise ValueError(
            f"This is no explanation of schema version {' or '.join(map(str, _READABLE))}; explain again to make one."
        )
    body = {name: value for name, value in data.items() if name not in ("schema_version", "kind")}
    try:
        return TypeAdapter(_KINDS[data["kind"]]).validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"The explanation is damaged at {place}: {first['msg'].lower()}.") from None

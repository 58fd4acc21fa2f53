"""The reward table: the rewards of the masks of a response, all of them or a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from explain.ask import Message, Progress, Rewards, Scorer
from explain.masks import all_masks, lime_probabilities, row_keeping
from explain.perturb import renderer
from explain.units import Units


@dataclass(frozen=True, eq=False)
class RewardTable:
    """Rewards float64[n] of `units.render(mask)` as answers to a prompt.

    masks: None where every mask has its reward, in the order of `all_masks(d)`; else the bool[n, d] masks that have
    one, all different, the whole text first and nothing second. draws: int[n], how often each was drawn.
    perturbation: what happened to units that were off. response: the answer, where the units are the prompt's.
    ask: gives the rewards of other masks, where a scorer is at hand; it is not part of the JSON.
    """

    prompt: list[Message]
    units: Units
    rewards: np.ndarray
    scorer: str  # its fingerprint
    note: str = ""
    masks: np.ndarray | None = None
    draws: np.ndarray | None = None
    perturbation: str = "remove"
    response: str | None = None
    ask: Rewards | None = field(default=None, repr=False)

    @property
    def exact(self) -> bool:
        """Whether every mask has its reward."""
        return self.masks is None

    @property
    def reward(self) -> float:
        """The reward of the whole response."""
        return float(self.rewards[0])

    @property
    def baseline(self) -> float:
        """The reward with every unit removed."""
        return float(self.rewards[-1 if self.masks is None else 1])

    @property
    def rows(self) -> np.ndarray:
        """The masks that have a reward, bool[n, d]."""
        return all_masks(len(self.units)) if self.masks is None else self.masks

    @property
    def shares(self) -> np.ndarray:
        """How often LIME draws each row: probabilities where the table is exact, else counts; float[n]."""
        return lime_probabilities(self.rows) if self.draws is None else self.draws.astype(float)

    def keeping(self, kept: Sequence[int]) -> float:
        """The reward with exactly these units kept."""
        if self.masks is None:
            return float(self.rewards[row_keeping(kept, len(self.units))])
        mask = np.zeros((1, len(self.units)), dtype=bool)
        mask[0, list(kept)] = True
        return float(self.at(mask)[0])

    def at(self, masks: np.ndarray) -> np.ndarray:
        """Rewards float64[n] of any masks bool[n, d]; those that the table lacks are asked for.

        Raises ValueError where it lacks one and there is no scorer to ask.
        """
        if self.masks is None:
            d = len(self.units)
            return self.rewards[2**d - 1 - masks @ (1 << np.arange(d))]
        rows = [self._index.get(name, -1) for name in names(masks)]
        found = self.rewards[rows]
        missing = np.array(rows) < 0
        if missing.any():
            if self.ask is None:
                raise ValueError("This sample of rewards lacks a mask that is asked for; explain again with a scorer.")
            found[missing] = self.ask(masks[missing])
        return found

    def text(self, mask: np.ndarray) -> str:
        """What a mask bool[d] looks like. Raises ValueError for infilled text without what filled it."""
        render = self.ask.text if self.ask is not None else renderer(self.perturbation, self.units)
        return render(mask.tolist())

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {name: row for row, name in enumerate(names(self.rows))}

    def to_json(self) -> dict[str, Any]:
        units = asdict(self.units) | {
            "spans": [list(span) for span in self.units.spans],
            "swaps": list(self.units.swaps),
        }
        data = {
            "prompt": self.prompt,
            "units": units,
            "rewards": self.rewards.tolist(),
            "scorer": self.scorer,
            "note": self.note,
            "perturbation": self.perturbation,
            "response": self.response,
        }
        if self.masks is not None and self.draws is not None:
            data |= {"masks": [name.hex() for name in names(self.masks)], "draws": self.draws.tolist()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any], ask: Rewards | None = None) -> RewardTable:
        spans = tuple((start, end) for start, end in data["units"]["spans"])
        units = Units(data["units"]["text"], spans, data["units"]["kind"], tuple(data["units"].get("swaps", ())))
        table = cls(
            data["prompt"],
            units,
            np.array(data["rewards"], dtype=float),
            data["scorer"],
            data["note"],
            perturbation=data.get("perturbation", "remove"),
            response=data.get("response"),
            ask=ask,
        )
        if "masks" not in data:
            return table
        packed = np.array([list(bytes.fromhex(name)) for name in data["masks"]], dtype=np.uint8)
        masks = np.unpackbits(packed, axis=1, count=len(units)).astype(bool)
        return replace(table, masks=masks, draws=np.array(data["draws"], dtype=int))


def names(masks: np.ndarray) -> list[bytes]:
    """A short name of each mask of bool[n, d]: its bits, packed."""
    return [row.tobytes() for row in np.packbits(masks, axis=1)]


def fill(
    scorer: Scorer,
    prompt: list[Message],
    units: Units,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> RewardTable:
    """The exact table: every mask is scored. Equal texts are scored once; what `cache_dir` knows is not scored again.

    Raises ValueError where the scorer does not answer one finite number per text.
    """
    return exact_table(Rewards(scorer, prompt, units, cache_dir, progress))


def exact_table(ask: Rewards) -> RewardTable:
    """The rewards of every mask."""
    return table_of(ask, ask(all_masks(len(ask.units))))


def table_of(
    ask: Rewards, rewards: np.ndarray, masks: np.ndarray | None = None, draws: np.ndarray | None = None
) -> RewardTable:
    """A table of what was asked."""
    return RewardTable(
        ask.prompt,
        ask.units,
        rewards,
        ask.scorer.fingerprint,
        getattr(ask.scorer, "note", ""),
        masks,
        draws,
        ask.perturbation,
        ask.response,
        ask,
    )

"""What `junto calibrate` found, in words."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def print_calibration(found: dict[str, Any], out: Console) -> None:
    verdict = "off" if found["threshold"] is None else f"on, below {found['threshold']:+.2f}"
    out.print(f"leaving by score: {verdict}\n  {found['reason']}")
    out.print(
        f"  of {found['steps']} unfinished steps {_percent(found['base_rate'])} lead nowhere (base rate); "
        f"the score tells them apart with an AUC of {_number(found['auc'])}"
    )
    if found["tried"] is not None:
        out.print(
            f"  leaving below {found['tried']:+.2f}: {_percent(found['precision'])} of the departures are right "
            f"(precision), {_percent(found['recall'])} of what leads nowhere is left (recall)"
        )
    own = found["own_word"]
    lost = "" if own["left_and_lost"] is None else f", {own['left_and_lost']} of these were lost"
    out.print(
        f"  own word: {own['left']} of {own['lines']} lines were left{lost}; of the {own['stayed']} that stayed "
        f"{own['stayed_and_unsolved']} did not solve their question"
    )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"

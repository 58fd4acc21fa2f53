"""What the rows of ``benchmarks.explain`` come to, and how that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.explain_errors import extrapolated

BATCH = 32
OURS, SHARP, ANCHORS = "Junto", "Junto, until sharp", "Junto, anchors"
ONE, MANY, FULL = "LIME, one at a time", f"LIME, batches of {BATCH}", "LIME, in full"
CAPTUM, ANCHOR_TEXT, ERRORS, FRESH = "captum", "AnchorText", "errors", "fresh masks"
SAMPLED = (ONE, MANY, CAPTUM)  # extrapolated
ARMS = (OURS, SHARP, ANCHORS, *SAMPLED, ANCHOR_TEXT)

Row = dict[str, Any]
Json = dict[str, Any]


def whole(row: Row, samples: int) -> Row:
    """A row of a baseline for all of LIME's masks."""
    costs = {key: extrapolated(row[key], row["texts"], samples) for key in ("tokens", "seconds", "forwards")}
    return row | costs | {"texts": samples}


def over_full(row: Row) -> Json:
    """What the first texts of a run in full say of all of it, over what it took."""
    first = row["first"]
    return {key: extrapolated(first[key], first["texts"], row["texts"]) / row[key] for key in ("tokens", "seconds")}


def summary(rows: dict[int, list[dict[str, Row]]], samples: int) -> Json:
    """``rows``: by number of units, those of each pair by arm, the first pair's first. The figures of every number of
    units, and the share of our time outside of forwards over all of them."""
    ours = [of[OURS] for of_pairs in rows.values() for of in of_pairs]
    return {f"d{d}": of_units(of_pairs, samples) for d, of_pairs in rows.items()} | {"overhead_share": overhead(ours)}


def spread(counted: Sequence[Row]) -> Json:
    """Of the counts of some pairs: LIME's tokens over the floor, together, and of the pairs with the least and most."""
    each = [one["flat"]["naive"] / one["floor"] for one in counted]
    together = sum(one["flat"]["naive"] for one in counted) / sum(one["floor"] for one in counted)
    return {"pairs": len(counted), "floor_ratio": together, "least": min(each), "most": max(each)}


def overhead(ours: Sequence[Row]) -> float:
    return 1 - sum(one["inside"] for one in ours) / sum(one["seconds"] for one in ours)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def of_units(of_pairs: Sequence[dict[str, Row]], samples: int) -> Json:
    """Ratios are of sums over the pairs; that of time is against the faster of LimeTextExplainer's two arms."""
    table: Json = {}
    for arm in [arm for arm in ARMS if arm in of_pairs[0]]:
        own = [whole(of[arm], samples) if arm in SAMPLED else of[arm] for of in of_pairs if arm in of]
        table[arm] = {key: mean([one[key] for one in own]) for key in ("texts", "tokens", "seconds", "forwards")}
        table[arm]["processors"] = sorted({one["processor"] for one in own})
        table[arm]["peak_mb"] = max((one["peak_mb"] for one in own if one["peak_mb"] is not None), default=None)
    ours, first = [of[OURS] for of in of_pairs], of_pairs[0]
    flat = {key: mean([one["flat"][key] for one in ours]) for key in ours[0]["flat"]}
    errors = worst_errors([of[ERRORS] for of in of_pairs if ERRORS in of])
    tokens, seconds = table[OURS]["tokens"], table[OURS]["seconds"]
    text, search = table[ANCHOR_TEXT], table.get(ANCHORS, table[OURS])
    return {
        "token_ratio": table[ONE]["tokens"] / tokens,
        "time_ratio": min(table[ONE]["seconds"], table[MANY]["seconds"]) / seconds,
        "max_error": errors["max_error"][OURS],
        "over_token_floor": max(one["tokens"] / one["floor"] for one in ours),
        "floor_ratio": flat["naive"] / mean([one["floor"] for one in ours]),
        "fewer_than_deduplicated": flat["deduplicated"] / tokens,
        "fewer_than_prompt_cached": flat["prompt_cached"] / tokens,
        "overhead_share": overhead(ours),
        "reward_difference": max(of[arm]["reward_difference"] for of in of_pairs for arm in (ONE, MANY)),
        "prompt_tokens": mean([one["prompt_tokens"] for one in ours]),
        "answer_tokens": mean([one["answer_tokens"] for one in ours]),
        "arms": table,
        "errors": errors,
        "extrapolated_over_full": over_full(first[FULL]) if FULL in first else {},
        "anchors": of_anchors([of[ANCHOR_TEXT] for of in of_pairs if ANCHOR_TEXT in of])
        | {f"{of}_ratio": text[key] / search[key] for of, key in (("token", "tokens"), ("time", "seconds"))},
    }


def mean_errors(fresh: Row, seeds: Sequence[Row]) -> Row:
    """Of the errors beside the weights of fresh masks the means over seeds."""
    return {
        "fresh": fresh["fresh"],
        "standard_error": fresh["standard_error"],
        "largest_weight": max(map(abs, fresh["weights"])),
        "max_error": {name: mean([one[name] for one in seeds]) for name in seeds[0] if name != "processor"},
    }


def worst_errors(found: Sequence[Row]) -> Json:
    """The largest over the pairs, of each explainer's error and of the other figures."""
    result: Json = {key: max(one[key] for one in found) for key in found[0] if key not in ("max_error", "processor")}
    errors = {name: max(one["max_error"][name] for one in found) for name in found[0]["max_error"]}
    return result | {"max_error": errors}


def of_anchors(found: Sequence[Row]) -> Json:
    """AnchorText's estimates beside the exact precision, where that is known."""
    known = [one for one in found if "exact_precision" in one]
    return {
        "stopped": sum(one["stopped"] for one in found),
        "largest_precision_error": max((abs(one["precision"] - one["exact_precision"]) for one in known), default=None),
        "least_exact_precision": min((one["exact_precision"] for one in known), default=None),
    }


def megabytes(row: Row) -> str:
    return "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"


def lines(found: Json) -> list[str]:
    """The result as text."""
    out = [f"{found['pairs']} pairs ({found['texts']}), float32, {found['threads']} threads; x: times Junto's"]
    for name in [name for name in found if name[0] == "d" and name[1:].isdigit()]:
        out += ["", *lines_of(name[1:], found[name])]
        counted = found["counted"][name]
        out.append(
            f"counted on {counted['pairs']} pairs: at the floor {counted['floor_ratio']:.1f} times fewer tokens "
            f"({counted['least']:.1f} to {counted['most']:.1f})"
        )
    for name, row in found["synthetic"].items():
        errors = ", ".join(
            f"{who} {one['max_error']:.3f} ± {one['max_error_se']:.3f} ({one['masks']:.0f} masks)"
            for who, one in row.items()
        )
        out += ["", f"rewards of degree two, {name[1:]} units, largest error: {errors}"]
    long = found["long_answers"]
    out += [
        f"an answer of {long['length']} words, {units} ({long[units]['units']} units, {long[units]['texts']} masks): "
        f"peak {megabytes(long[units])} MB above the model, of which imports {long[units]['imports_mb'] or 0:.0f} MB"
        for units in ("auto", "words")
    ]
    return [*out, f"outside of forwards over all: {100 * found['overhead_share']:.1f} %"]


def lines_of(units: str, part: Json) -> list[str]:
    ours, anchors, errors = part["arms"][OURS], part["anchors"], part["errors"]
    prompt, answer = part["prompt_tokens"], part["answer_tokens"]
    out = [
        f"{units} units, prompts of {prompt:.0f} and answers of {answer:.0f} tokens; {', '.join(ours['processors'])}",
        f"{'':<22}{'masks':>8}{'tokens':>12}{'x':>8}{'seconds':>10}{'x':>8}{'peak MB':>9}",
    ]
    for arm, row in part["arms"].items():
        # of the first pair alone, perhaps on another machine
        slower = f"{row['seconds'] / ours['seconds']:.2f}" if row["processors"] == ours["processors"] else "-"
        out.append(
            f"{arm:<22}{row['texts']:>8.0f}{row['tokens']:>12,.0f}{row['tokens'] / ours['tokens']:>8.2f}"
            f"{row['seconds']:>10.1f}{slower:>8}{megabytes(row):>9}"
        )
    full = part["extrapolated_over_full"]
    out += [
        f"token ratio {part['token_ratio']:.1f} (at the floor {part['floor_ratio']:.1f}), time ratio "
        f"{part['time_ratio']:.1f}; at most {part['over_token_floor']:.2f} times the floor",
        f"{part['fewer_than_deduplicated']:.1f} times fewer tokens than LIME without duplicates, "
        f"{part['fewer_than_prompt_cached']:.1f} than with the prompt cached as well",
        "largest error of a weight: "
        + ", ".join(f"{name} {value:.2g}" for name, value in errors["max_error"].items())
        + (f" (standard error of the exact ones {errors['standard_error']:.2g})" if "standard_error" in errors else "")
        + f"; the largest weight is {errors['largest_weight']:.2g}",
        f"rewards of the pipeline differ by {part['reward_difference']:.1g} at most; outside of forwards "
        f"{100 * part['overhead_share']:.1f} %",
        f"AnchorText reads {anchors['token_ratio']:.1f} times as many tokens in {anchors['time_ratio']:.1f} times the "
        f"time ({anchors['stopped']} searches stopped)",
    ]
    if anchors["largest_precision_error"] is not None:
        out[-1] += (
            f"; its precision is off by {anchors['largest_precision_error']:.2f} at most, and "
            f"{anchors['least_exact_precision']:.2f} at least"
        )
    if full:
        out.append(f"extrapolated over run in full: tokens {full['tokens']:.3f}, seconds {full['seconds']:.3f}")
    return out

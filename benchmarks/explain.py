"""Explaining a reward beside the peers: ``python -m benchmarks.explain [--json] [--run RUN] [--pairs 20]``.

One reward model in float32, prompts of about 256 tokens and answers of about 128 in 8 and in 24 units. Junto against
LimeTextExplainer over a Hugging Face pipeline (one text at a time, and batches of 32), captum's LIME and alibi's
AnchorText: tokens through the model, wall time, peak memory above the start, and the largest error of a weight against
the exact answer. With 8 units Junto scores every mask once and gives everything that there is, LIME, anchors, Shapley
values and faithfulness; with 24 it scores as many masks as LimeTextExplainer draws, and in a row of its own as many as
it would by itself. The peers are timed on 100 masks of each pair and extrapolated; LimeTextExplainer on the first pair
in 8 units is run in full as well. Padding counts in time and not in tokens. Searches for anchors among 24 units, of
both sides, are on the first pair alone.

The tokens that LIME's masks need at least (the floor below) are also counted on 20 pairs, whose rewards are not asked.

Errors: with 8 units against all masks; with 24 on the first pair against 50,000 fresh masks, whose standard error is
printed, and on rewards of degree two against their closed form. The floor is the tree of the kept units' tokens (the
prompt once, each beginning of kept units once). Needs captum (``pip install --no-deps captum``). Rows are kept under
``--folder``; the same command again goes on. What has been measured is in ``benchmarks/rows/explain.jsonl``: as
``rows.jsonl`` in that folder it is not measured again by the same model with as many threads. Times are compared within
a pair, whose rows are of processors of one name; another pair's may be of another. The data are looked for in
JUNTO_DATA, or ../shared/data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from alignment.engine import Engine
from benchmarks.explain_arms import Bench, Counts, Row, long_answer, rate
from benchmarks.explain_errors import synthetic
from benchmarks.explain_peers import resident
from benchmarks.explain_tables import (
    ANCHOR_TEXT,
    ANCHORS,
    BATCH,
    CAPTUM,
    ERRORS,
    FRESH,
    FULL,
    MANY,
    ONE,
    OURS,
    SHARP,
    lines,
    mean_errors,
    spread,
    summary,
)
from benchmarks.explain_texts import long_text, pairs
from benchmarks.kept import kept
from explain.units import MAX_UNITS
from graphs.environment import machine

UNITS = (8, 24)
SYNTHETIC_SEEDS = 20
COUNTED = 20  # pairs whose tokens are counted; on those of --pairs time and tokens are measured


def arms(bench: Bench, d: int, there: dict[str, Row]) -> dict[str, Callable[[], Row]]:
    """What is measured on every pair with d units, in this order; ``there`` holds the rows of the arms before."""
    counts, exact = bench.counts, d <= MAX_UNITS
    found: dict[str, Callable[[], Row]] = {OURS: lambda: bench.ours(d)}
    if not exact:
        found[SHARP] = lambda: bench.until_sharp(d)
    found[ONE] = lambda: bench.lime(d, 1, counts.timed)
    found[MANY] = lambda: bench.lime(d, BATCH, counts.timed)
    found[CAPTUM] = lambda: bench.captum(d, counts.timed)
    if exact:
        found[ANCHOR_TEXT] = lambda: bench.anchor_text(d, there[OURS]["tau"])
        found[ERRORS] = lambda: bench.exact_errors(there[OURS])
    return found


def long_arms(bench: Bench, d: int, there: dict[str, Row]) -> dict[str, Callable[[], Row]]:
    """What takes so long that it is measured on the first pair alone."""
    if d <= MAX_UNITS:
        return {FULL: lambda: bench.lime(d, 1, bench.counts.samples, rate(FULL))}
    return {
        ANCHORS: lambda: bench.our_anchors(d),
        ANCHOR_TEXT: lambda: bench.anchor_text(d, there[OURS]["tau"]),
    }


def where(known: Sequence[Row], named: Row, together: Collection[str], here: str) -> str:
    """The processor whose rows count: one on which all arms of ``together`` have been measured, else this one."""
    found: dict[str, set[str]] = {}
    for one in known:
        if named.items() <= one.items():
            found.setdefault(one["processor"], set()).add(one["arm"])
    whole = [processor for processor, measured in found.items() if measured >= set(together)]
    return here if here in whole or not whole else whole[0]


def warm_up(bench: Bench) -> None:
    """What only a first call pays for, imports and kernels, is in no row; on another answer than those of the rows."""
    counts = bench.counts._replace(timed=4)
    aside = Bench(bench.engine, bench.role, (bench.prompt, bench.answer[::-1]), 1, counts)
    aside.ours(2)
    aside.lime(2, BATCH, counts.timed)
    aside.captum(2, counts.timed)
    aside.anchor_text(2, 0.0)


def measure(
    engine: Engine, role: str, count: int, folder: Path, counts: Counts, timed: bool = False
) -> dict[str, Any] | None:
    """All rows, those from ``folder`` that are there, and what they come to; with ``timed`` those alone whose time is
    measured, and nothing."""
    model = (resident() or {}).get("VmRSS")
    texts, source = pairs(engine, count)
    print(f"texts: {source}", file=sys.stderr, flush=True)  # before hours are spent on drawn words
    benches = [Bench(engine, role, pair, number, counts) for number, pair in enumerate(texts)]
    about = {"scorer": benches[0].scorer.fingerprint, "counts": counts._asdict(), "threads": torch.get_num_threads()}
    here = machine()["processor"]
    rows: dict[int, list[dict[str, Row]]] = {d: [{} for _ in benches] for d in UNITS}
    long: dict[str, Row] = {}
    with kept(folder / "rows.jsonl", about) as (known, keep):

        def row(
            bench: Bench, units: int | str, arm: str, make: Callable[[], Row], together: Collection[str] = ()
        ) -> Row:
            """``together``: the arms whose times are compared with this one's."""
            text = hashlib.sha256(json.dumps([bench.prompt, bench.answer]).encode()).hexdigest()
            named = {"text": text, "units": units}
            named |= {"arm": arm, "processor": where(known, named, {arm, *together}, here)}
            found = next((one["row"] for one in known if named.items() <= one.items()), None)
            if found is None:
                began = time.monotonic()
                found = make()
                keep(named | {"row": found})
                per = f", {found['tokens'] / found['seconds']:.0f} tokens/s" if "seconds" in found else ""
                done = f"pair {bench.seed + 1}/{count}, {units} units, {arm}"
                print(f"{done}: {time.monotonic() - began:.0f} s{per}", file=sys.stderr, flush=True)
            return found | {"processor": named["processor"]}

        # first, while what is in memory is the model and nothing that the other rows leave
        text = long_text(engine, counts.long)
        for units in () if timed else ("auto", "words"):
            long[units] = row(benches[0], units, "long", partial(long_answer, benches[0], text, units, model))
        warm_up(benches[0])
        # pair by pair, so that what is there when it is interrupted is of whole pairs; the longest last
        for number, bench in enumerate(benches):
            for d in UNITS:
                of_pair = arms(bench, d, rows[d][number])
                for arm, make in of_pair.items():
                    rows[d][number][arm] = row(bench, d, arm, make, of_pair)
        for d in UNITS:
            for arm, make in long_arms(benches[0], d, rows[d][0]).items():
                searches = (ANCHORS, ANCHOR_TEXT) if arm in (ANCHORS, ANCHOR_TEXT) else ()
                rows[d][0][arm] = row(benches[0], d, arm, make, searches)
        if timed:
            return None
        first, answers = benches[0], folder / "rewards"
        for d in UNITS:
            if d > MAX_UNITS:
                fresh = row(first, d, FRESH, partial(first.fresh_weights, d, answers))
                errors = partial(first.fresh_errors, d, answers, fresh["weights"])
                of_seeds = [row(first, d, f"{ERRORS}, seed {i}", partial(errors, i)) for i in range(counts.seeds)]
                rows[d][0][ERRORS] = mean_errors(fresh, of_seeds)
    others = [Bench(engine, role, pair, number, counts) for number, pair in enumerate(pairs(engine, COUNTED)[0])]
    return {
        "schema_version": 1,
        "texts": source,
        "pairs": count,
        "counted": {f"d{d}": spread([other.counted(d) for other in others]) for d in UNITS},
        "threads": torch.get_num_threads(),
        **summary(rows, counts.samples),
        "long_answers": {"length": counts.long} | long,
        "synthetic": {f"d{d}": synthetic(d, SYNTHETIC_SEEDS, counts.samples) for d in UNITS if d > MAX_UNITS},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the tables")
    parser.add_argument("--run", default="game24", help="a run with a reward model")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument(
        "--timed", action="store_true", help="only the rows whose time is measured, which bear nothing beside them"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-explain"), help="where rows are kept")
    given = parser.parse_args(arguments)
    if find_spec("captum") is None:
        parser.error("captum is not installed; pip install --no-deps captum")
    with Engine.open(given.run, compute_dtype="float32") as engine:
        found = measure(engine, "reward", given.pairs, given.folder, Counts(), given.timed)
    if found is None:
        print(f"the timed rows are in {given.folder}; the same command without --timed measures the others")
        return
    print(json.dumps(found, indent=1) if given.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()

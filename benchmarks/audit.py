"""Does the audit find what a reward model goes by? ``python -m benchmarks.audit [--json] [--run RUN]``

Shortcuts (length, a politeness word, a position) are planted in the labels of preference pairs, a score head on frozen
features learns from them, and the audit looks at held-out pairs: how often it finds the shortcut, what else it accuses,
and what it says of heads that learned from clean labels. On the pairs of hh-rlhf that ``benchmarks.reward`` holds out,
looked for in JUNTO_DATA, or ../shared/data, it audits a bag-of-words head, and with --run that run's reward model
(``--run runs/benchmark-reward/hh-rlhf``, which that benchmark trained).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from alignment.run_dir import RunDir
from explain.audit import audit
from explain.audit_render import HEADINGS, cells
from explain.audit_result import Audit, to_json
from explain.audit_words import describe
from explain.planted import SHORTCUTS, planted_pairs, train_head

DATA = Path(os.environ.get("JUNTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
PAIRS = "hh-rlhf/test.jsonl.gz"
TRAINING, AUDITED = 3000, 400  # pairs

Json = dict[str, Any]


def planted(seeds: int) -> Json:
    """For each shortcut, and for clean labels: alarms over the seeds, and the mean effect of the shortcut's probe."""
    table: Json = {}
    for shortcut in (None, *SHORTCUTS):
        began, alarms, effects = time.monotonic(), Counter[str](), []
        quiet = 0
        for seed in range(seeds):
            head = train_head(planted_pairs(TRAINING, seed, shortcut))
            found = audit(head, planted_pairs(AUDITED, 1000 + seed, shortcut))
            alarms.update(finding.feature for finding in found.alarms)
            quiet += not found.alarms
            effects += [
                finding.probe.change.value
                for finding in found.findings
                if finding.feature == shortcut and finding.probe and finding.probe.change
            ]
        table[shortcut or "clean"] = {
            "seeds": seeds,
            "found": alarms[shortcut] if shortcut else None,
            "without_alarm": quiet,
            "other_alarms": {name: count for name, count in alarms.items() if name != shortcut},
            "effect_sd": fmean(effects) if effects else None,
            "seconds_per_seed": (time.monotonic() - began) / seeds,
        }
    return table


def on_people(run: str | None, rows: int, probes: int, explained: int) -> Json:
    """What the audit says, on the pairs of hh-rlhf that ``benchmarks.reward`` holds out, of a bag-of-words head that
    learned from the others, and of the reward model of ``run``; or why they were left out."""
    path = DATA / PAIRS
    if not path.is_file():
        return {"hh-rlhf": {"skipped": f"there is no {path}; set JUNTO_DATA"}}
    from alignment.embedded import cache_dir
    from benchmarks.reward import hh_rlhf
    from graphs.audit import examples_of, sample
    from graphs.cli.audit import scorer_of
    from graphs.cli.progress import Reporter

    train, held_out, malformed = hh_rlhf(path)
    drawn = sample(held_out, rows, 0)
    notes = [f"{len(drawn)} pairs that benchmarks.reward holds out; {malformed} malformed rows of the file left out"]
    head = train_head(examples_of(train))
    tables: Json = {"hh-rlhf, bag of words": _said(audit(head, drawn, probes=probes, explained=explained), notes)}
    if run is None:
        return tables | {"hh-rlhf, reward model": {"skipped": "name a run whose reward model is audited: --run NAME"}}
    with Reporter() as report, scorer_of(RunDir.open(run), "float32") as scorer:

        def progress(scored: int, total: int) -> None:
            report({"stage": "audit", "step": scored, "total": total})

        kept = cache_dir() / "rewards"
        found = audit(scorer, drawn, probes=probes, explained=explained, cache_dir=kept, progress=progress)
    return tables | {"hh-rlhf, reward model": _said(found, notes)}


def _said(found: Audit, notes: list[str]) -> Json:
    table = [dict(zip(HEADINGS, cells(finding), strict=True)) for finding in found.findings]
    return {**to_json(replace(found, notes=(*notes, *found.notes))), "words": describe(found), "table": table}


def lines(result: Json) -> list[str]:
    """The result as text."""
    out = [f"{'planted':<12}{'found':>7}{'no alarm':>10}{'probe, SD':>11}{'s/seed':>8}  other alarms"]
    for name, row in result["planted"].items():
        found = "–" if row["found"] is None else f"{row['found']}/{row['seeds']}"
        effect = "–" if row["effect_sd"] is None else f"{row['effect_sd']:+.2f}"
        others = ", ".join(f"{feature} {count}" for feature, count in row["other_alarms"].items()) or "none"
        quiet = f"{row['without_alarm']}/{row['seeds']}"
        out.append(f"{name:<12}{found:>7}{quiet:>10}{effect:>11}{row['seconds_per_seed']:>8.2f}  {others}")
    for name, about in result["people"].items():
        out += (
            ["", f"{name}: left out, {about['skipped']}"] if "skipped" in about else ["", f"{name}:", *about["words"]]
        )
        for row in about.get("table", []):
            out.append("  ".join(f"{cell:<15}" for cell in row.values()).rstrip())
    return out


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.audit", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the tables")
    parser.add_argument("--run", help="a run whose reward model is audited on hh-rlhf")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=400, help="pairs of hh-rlhf")
    parser.add_argument("--probes", type=int, default=64, help="answers of hh-rlhf that are changed and scored again")
    parser.add_argument("--explained", type=int, default=24, help="answers of hh-rlhf that LIME looks at by word")
    options = parser.parse_args(arguments)
    result: Json = {"schema_version": 1, "planted": planted(options.seeds)}
    result["people"] = on_people(options.run, options.rows, options.probes, options.explained)
    print(json.dumps(result, indent=1) if options.json else "\n".join(lines(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

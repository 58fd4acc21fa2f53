"""``junto calibrate``: whether leaving by score helps the council of a run, measured on its validation questions.

Whole lines are sampled by the council's experts and every step of them is valued; ``agents.leaving`` replays councils
on them. What was sampled is kept in ``calibration.jsonl`` and is not sampled again; the verdict in
``calibration.json`` is what ``council.leave_below: calibrated`` reads.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.leaving import FEWEST, Sampled, Step, calibrate
from agents.scorers import Line
from agents.thought import LEAVE, line_grammar
from alignment.engine import Engine, Request
from alignment.errors import UsageError
from alignment.run_dir import Report, RunDir, read_rows, to_jsonl, write_atomic
from graphs.recipe import load_recipe, load_task
from graphs.sitting import seat
from graphs.turns import Context

CHUNK = 4  # questions whose lines are written together

Row = dict[str, Any]


def run_calibrate(run: Path, overrides: Sequence[str], count: int, lines: int, report: Report) -> dict[str, Any]:
    """Measures on ``count`` validation questions with ``lines`` lines each. Raises UsageError."""
    run_dir = RunDir(run)
    recipe = load_recipe(run / "config.yaml", overrides)
    task = load_task(recipe.task, run)
    asked = task.load(task.Options(**recipe.data), recipe.seed, run).prompts["validation"][:count]
    if len(asked) < FEWEST:
        raise UsageError(
            f"calibration on {len(asked)} validation questions would say nothing: it picks the threshold on one half "
            f"and measures it on the other; take {FEWEST} at least (--n), and hold out as many under data:"
        )
    with Engine.open(run) as engine:
        context = seat(engine, task, recipe, "calibrate")
        settings = _settings(context, engine, [row["question"] for row in asked], lines)
        rows = _sampled(context, engine, asked, lines, run_dir.path / "calibration.jsonl", settings, report)
    experts = len(recipe.council.experts)
    found = calibrate([_lines(context, mine) for mine in _by_question(rows, asked)], experts, context.config.vote)
    found |= {"scorer": context.config.leave_scorer, "own_word": _own_word(context, rows), "lines": lines}
    found["date"] = datetime.now(UTC).date().isoformat()
    write_atomic(run_dir.path / "calibration.json", json.dumps(found, indent=1) + "\n")
    return found


def _settings(context: Context, engine: Engine, questions: Sequence[str], lines: int) -> str:
    """A hash of what decides the lines and their values."""
    config = context.config.model_dump(mode="json", exclude={"leave_below"})
    about = json.dumps([config, questions, lines, engine.fingerprint], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _sampled(
    context: Context, engine: Engine, asked: Sequence[Row], lines: int, path: Path, settings: str, report: Report
) -> list[Row]:
    kept = [row for row in read_rows(path) if row["settings"] == settings]
    questions = [row["question"] for row in asked]
    whole = {q for q in questions if sum(row["question"] == q for row in kept) == lines}
    rows = [row for row in kept if row["question"] in whole]
    write_atomic(path, to_jsonl(rows))
    todo = [q for q in questions if q not in whole]
    began, tokens = time.monotonic(), 0
    for start in range(0, len(todo), CHUNK):
        new = [row | {"settings": settings} for row in _write(context, engine, todo[start : start + CHUNK], lines)]
        with path.open("a", encoding="utf-8") as out:
            out.write(to_jsonl(new))
        rows += new
        tokens += sum(sum(row["tokens"]) for row in new)
        spent, done = time.monotonic() - began, min(start + CHUNK, len(todo))
        report(
            {
                "stage": "calibrate",
                "step": len(whole) + done,
                "total": len(questions),
                "metrics": {"solved": sum(row["solved"] for row in rows) / len(rows)},
                "tokens_per_second": tokens / spent,
                "eta_seconds": spent / done * (len(todo) - done),
            }
        )
    return rows


def _write(context: Context, engine: Engine, questions: Sequence[str], lines: int) -> list[Row]:
    """``lines`` whole lines for every question, by the experts in turn, with the values of their steps."""
    c, config = context, context.config
    steps = config.depth or config.rounds
    wanted = [(question, k, config.experts[k % len(config.experts)]) for question in questions for k in range(lines)]
    requests = [
        Request(
            c.task.prompt(question, (), expert.persona or c.persona),
            role=expert.role,
            max_tokens=steps * config.max_tokens_per_step,
            temperature=expert.temperature,
            seed=f"{config.seed}/calibrate/{question}/{k}",
            grammar=line_grammar(c.task.STEP, steps),
        )
        for question, k, expert in wanted
    ]
    rows = []
    for (question, k, expert), done in zip(wanted, engine.generate(requests), strict=True):
        texts = [text for text in done.text.strip().split("\n") if text]
        tokens = [len(engine.backbone.chat.text_ids(f"{text}\n")) for text in texts]
        solved = bool(done.finish != "length" and c.task.check(question, done.text))
        about = {"question": question, "k": k, "expert": expert.name, "finish": done.finish}
        rows.append(about | {"steps": texts, "tokens": tokens, "solved": solved, "logprobs": done.logprobs})
    return [row | _values(context, row) for row in rows]


def _values(context: Context, row: Row) -> Row:
    assert context.score and context.leave_score
    texts = row["steps"]
    ends = [sum(row["tokens"][: i + 1]) for i in range(len(texts))]
    prefixes = [Line(tuple(texts[: i + 1]), sum(row["logprobs"][:end]), end) for i, end in enumerate(ends)]
    if not prefixes:
        return {"values": [], "score": 0.0}
    values = context.leave_score(row["question"], prefixes)
    return {"values": values, "score": context.score(row["question"], prefixes[-1:])[0]}


def _by_question(rows: Sequence[Row], asked: Sequence[Row]) -> list[list[Row]]:
    return [[row for row in rows if row["question"] == one["question"]] for one in asked]


def _lines(context: Context, rows: Sequence[Row]) -> list[Sampled]:
    conclusion = getattr(context.task, "conclusion", lambda answer: answer.splitlines()[-1])
    found = []
    for row in rows:
        dead = _dead(context, row)
        steps = tuple(Step(t, v, d) for t, v, d in zip(row["tokens"], row["values"], dead, strict=True))
        ended = row["steps"] and row["finish"] != "length" and not row["steps"][-1].startswith(LEAVE)
        ending = conclusion("\n".join(row["steps"])) if ended else None
        found.append(Sampled(steps, ending, row["score"], row["solved"]))
    return found


def _dead(context: Context, row: Row) -> list[bool]:
    """By the task's oracle; a task without one: whether the line was not solved in the end."""
    reachable = getattr(context.task, "reachable", None)
    steps = row["steps"]
    if reachable is None:
        return [not row["solved"]] * len(steps)
    own = [step for step in steps if not step.startswith(LEAVE)]
    dead = [not reachable(row["question"], own[: i + 1]) for i in range(len(own))]
    return dead + dead[-1:] * (len(steps) - len(own)) if own else [False] * len(steps)


def _own_word(context: Context, rows: Sequence[Row]) -> dict[str, Any]:
    """Lines that the model left in its own words: how many, and, where the task has an oracle, how many of these were
    lost; and how many of the lines that stayed to their end did not solve the question."""
    left = [row for row in rows if row["steps"] and row["steps"][-1].startswith(LEAVE)]
    stayed = [row for row in rows if not (row["steps"] and row["steps"][-1].startswith(LEAVE))]
    knows = hasattr(context.task, "reachable")
    return {
        "lines": len(rows),
        "left": len(left),
        "left_and_lost": sum(_dead(context, row)[-1] for row in left) if knows else None,
        "stayed": len(stayed),
        "stayed_and_unsolved": sum(not row["solved"] for row in stayed),
    }

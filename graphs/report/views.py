"""From what a run directory holds to what its report shows: plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from graphs.report import formats
from graphs.report.files import Json
from graphs.report.intervals import Panel, Row, forest, methods, reading
from graphs.report.overoptimization import score_against_kl
from graphs.report.stages import STAGES, charts, reliability_chart, result_rows, undefined
from graphs.report.tree import expert_colours, expert_words, summary, tree_list, tree_svg, verdict

HELD = 30  # sample rows in all
EXPLANATIONS = 6
SPLITS = ("train", "validation", "test")
MEASURED = {"evaluate": "Held-out results", "test": "Test results"}
AUDITS = {"gate.json": "The reward model, before PPO", "policy.json": "The policy beside the SFT model"}


def part(value: Any, *keys: str) -> Json:
    """A nested JSON object, or {} where one of the keys is absent or holds something else."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, dict) else {}


# by the place in the results: title, unit of the two arms, unit of their difference, whether it is a share
COMPARISONS = {
    ("reward",): ("Reward", "mean reward", "in reward", False),
    ("solved",): ("Share of prompts solved", "% solved", "points", True),
    ("ability", "plain-text"): ("General ability: perplexity of plain prose", "per token", "per token", False),
    ("ability", "knowledge"): ("General ability: questions of knowledge", "% right", "points", True),
    ("ability", "sense"): ("General ability: sensible endings", "% right", "points", True),
}


def comparison(evaluate: Json, place: tuple[str, ...]) -> Json | None:
    """Before, after and paired difference of one measure of ``COMPARISONS``, as figure and table rows."""
    both = part(evaluate, *place)
    if not both:
        return None
    title, unit, unit_of_difference, share = COMPARISONS[place]
    value = formats.percent if share else None
    change = formats.points if share else None
    before, after, difference = part(both, "sft"), part(both, "policy"), part(both, "difference")
    arms = [("Before PPO", before, "open"), ("After PPO", after, "filled")]
    known = [Row(label, i, marker) for label, i, marker in arms if formats.is_interval(i)]
    factor = 100.0 if share else 1.0
    panels = [Panel(unit, known, factor=factor)] if known else []
    if formats.is_interval(difference):
        row = Row("Difference", difference, "diamond")
        panels.append(Panel(unit_of_difference, [row], zero=True, factor=factor))
    table = [(label, *formats.interval(i, value), count(i)) for label, i, _ in arms]
    table.append(("Paired difference", *formats.interval(difference, change), count(difference)))
    return {
        "title": title,
        "figure": forest(title, panels, value) if panels else "",
        "table": table,
        "reading": reading(difference),
        "methods": methods([before, after, difference]),
    }


def count(value: Any) -> str:
    """The n of an interval."""
    return formats.number(value.get("n")) if isinstance(value, dict) else formats.DASH


def measured_views(stages: Json) -> list[Json]:
    """The held-out evaluation, and that of the test split, as far as the run has them."""
    views = []
    for stage, title in MEASURED.items():
        found = part(stages, stage, "results")
        if found or stage == "evaluate":
            views.append(
                {
                    "key": "held-out" if stage == "evaluate" else stage,
                    "title": title,
                    "split": str(found.get("split") or "validation"),
                    "n": formats.number(found.get("n")),
                    "comparisons": [c for c in (comparison(found, place) for place in COMPARISONS) if c],
                    "checker": "solved" not in found or bool(found["solved"]),
                    "kl": formats.interval(found.get("kl")) if formats.is_interval(found.get("kl")) else None,
                    "kl_methods": methods([found.get("kl")]),
                }
            )
    return views


def key_figures(stages: Json) -> list[tuple[str, str, str]]:
    """The headline's figures as (label, estimate, interval), only those that the run has."""
    test = part(stages, "test", "results")
    evaluate, reward = part(stages, "evaluate", "results"), part(stages, "reward", "results")
    sft = part(stages, "sft", "results")
    wanted = [
        ("Solved, before PPO", part(evaluate, "solved", "sft"), formats.percent),
        ("Solved, after PPO", part(evaluate, "solved", "policy"), formats.percent),
        ("Solved, paired difference", part(evaluate, "solved", "difference"), formats.points),
        ("Reward, paired difference", part(evaluate, "reward", "difference"), None),
        ("KL to the SFT adapter, nats", part(evaluate, "kl"), None),
        ("Test split: solved, paired difference", part(test, "solved", "difference"), formats.points),
        ("Test split: reward, paired difference", part(test, "reward", "difference"), None),
        ("Reward model, pair accuracy", part(reward, "pair_accuracy"), formats.percent),
        ("Reward model, Pearson correlation", part(reward, "pearson"), None),
    ]
    figures = []
    for label, i, form in wanted:
        if formats.is_interval(i):
            value, bounds = formats.interval(i, form)
            level = formats.finite(i.get("level"))
            name = "interval" if level is None else f"{100 * level:g}% interval"
            figures.append((label, value, f"{name} {bounds}"))
    if formats.finite(sft.get("perplexity")) is not None:
        figures.append(("Perplexity after SFT", formats.number(sft["perplexity"]), ""))
    return figures


def stage_views(status: Json, metrics: Sequence[Json], best_of_n: Json) -> list[Json]:
    """One view per stage that has begun or left metrics: name, state, time, curves and results."""
    stages = part(status, "stages")
    seen = {str(row.get("stage")) for row in metrics}
    views = []
    for key in [*STAGES, *(k for k in stages if k not in STAGES)]:
        entry = part(stages, key)
        if not entry and key not in seen:
            continue
        results = part(entry, "results")
        counts = part(results, "counts")
        told = [entry.get("origin"), *(entry.get("attempts") or [])]
        notes = [told, *(n for where in (entry, results) if isinstance(n := where.get("notes"), list))]
        evaluation = key in MEASURED  # has a section of its own
        rest = {k: v for k, v in results.items() if k not in ("counts", "notes", "reliability")}
        reliability = results.get("reliability")
        drawn = [reliability_chart(reliability)] if isinstance(reliability, list) else []
        if key == "ppo":
            drawn.append(score_against_kl(metrics, best_of_n))
        views.append(
            {
                "key": key,
                "title": STAGES.get(key, key),
                "state": str(entry.get("state") or "no status"),
                "progress": f"{formats.number(entry.get('step'))} of {formats.number(entry.get('total'))}",
                "time": formats.duration(entry.get("seconds")),
                "charts": [*charts(key, metrics), *filter(None, drawn)],
                "undefined": undefined(key, metrics),
                "counts": [(k, [formats.number(part(counts, k).get(s)) for s in SPLITS]) for k in counts],
                "notes": [str(note) for some in notes for note in some if note is not None],
                "results": [] if evaluation else result_rows(rest),
                "methods": "" if evaluation else methods(list(rest.values())),
            }
        )
    return views


def tree_views(councils: Sequence[tuple[str, Json]], problems: list[str]) -> tuple[list[Json], list[str], int]:
    """The first solved and the first unsolved council (or, without a checker, the first two), drawn.

    Returns (views, sentences about what is missing, number of further councils).
    """
    usable = [council for _, council in councils if is_council(council)]
    problems += [f"trees/{name} does not hold a council's result." for name, one in councils if not is_council(one)]
    chosen, missing = [], []
    checked = [c for c in usable if isinstance(c.get("solved"), bool)]
    for wanted, words in ((True, "a solved"), (False, "an unsolved")):
        found = next((c for c in checked if c["solved"] is wanted), None)
        if found is not None:
            chosen.append(found)
        elif checked or not usable:
            missing.append(f"There is no thought tree of {words} question in this run.")
    if not checked:
        chosen = usable[:2]
    return [tree_view(council) for council in chosen], missing, len(usable) - len(chosen)


def is_council(value: Json) -> bool:
    """Whether a JSON object has the lists that a council's result has."""
    thoughts, experts = value.get("thoughts"), value.get("experts") or []
    return all(isinstance(x, list) and all(isinstance(e, dict) for e in x) for x in (thoughts, experts))


def tree_view(council: Mapping[str, Any]) -> Json:
    """One council: question, answer, verdict, how each expert ended, and the tree as picture and as text."""
    colours = expert_colours(council)
    words, kind = verdict(council.get("solved"))
    return {
        "question": str(council.get("question") or ""),
        "answer": council.get("answer"),
        "verdict": words,
        "kind": kind,
        "summary": summary(council),
        "experts": [
            (str(e.get("name")), colours[str(e.get("name"))], expert_words(e)) for e in council.get("experts") or []
        ],
        "notes": [str(n) for n in council.get("notes") or []],
        "svg": Markup(tree_svg(council, standalone=False)),
        "list": tree_list(council),
    }


def sample_views(samples: Sequence[Json]) -> tuple[list[Json], int]:
    """Responses before and after PPO side by side, in the order of the file; (views, number of prompts)."""
    by_prompt: dict[str, Json] = {}
    for row in samples:
        if row.get("stage") not in (None, "evaluate"):
            continue
        view = by_prompt.setdefault(str(row.get("id")), {"question": str(row.get("question") or ""), "arms": []})
        words, kind = verdict(row.get("solved"))
        arm = {"sft": "Before PPO", "policy": "After PPO"}.get(str(row.get("arm")), str(row.get("arm")))
        fields = {"reward": formats.number(row.get("reward")), "verdict": words, "kind": kind}
        view["arms"].append({"arm": arm, "text": str(row.get("text") or ""), **fields})
    return list(by_prompt.values())[:HELD], len(by_prompt)


def explanation_views(
    files: Sequence[tuple[str, Json]], problems: list[str]
) -> tuple[list[tuple[str, Markup]], Markup]:
    """The explanations as (name, HTML fragment), and their style; what cannot be drawn is a problem."""
    if not files:
        return [], Markup("")
    from explain import render, result  # only here: a report without explanations needs none of it

    fragments = []
    for name, value in files[:EXPLANATIONS]:
        try:
            fragment = Markup(render.html_fragment(result.from_json(value)))
            fragments.append((name.removesuffix(".json"), fragment))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"explanations/{name} could not be drawn: {error}")
    return fragments, Markup(render.CSS)


def audit_views(files: Sequence[tuple[str, Json]], problems: list[str]) -> tuple[list[tuple[str, Markup]], Markup]:
    """Audits, of the reward model and of the policy, as (name, HTML fragment), and their style; as above."""
    if not files:
        return [], Markup("")
    from explain import audit_render, audit_result, exploited

    fragments = []
    for name, value in files:
        try:
            if value.get("kind") == "policy":
                fragment = exploited.html_fragment(exploited.from_json(value), int(value["rows"]))
            else:
                fragment = audit_render.html_fragment(audit_result.from_json(value))
            fragments.append((AUDITS.get(name, name.removesuffix(".json")), Markup(fragment)))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"audits/{name} could not be drawn: {error}")
    return fragments, Markup(audit_render.CSS)


def about(status: Json, recipe: Json, environment: Json) -> list[tuple[str, str]]:
    """What this run is, in (term, text) pairs."""
    backbone = part(environment, "backbone") or part(recipe, "backbone")
    name = backbone.get("name") or backbone.get("model")
    dtype = backbone.get("compute_dtype")
    quantization = backbone.get("quantization")
    storage = {"none": "not quantized", None: ""}.get(quantization, f"{quantization} weights")
    parts = [str(name or ""), storage, f"{dtype} arithmetic" if dtype else ""]
    state = str(status.get("state") or "unknown")
    if state != "done" and status.get("stage"):
        state += f" in stage {status['stage']}"
    if status.get("message"):
        state += f": {status['message']}"
    rows = [
        ("Task", str(recipe.get("task") or "")),
        ("Backbone", ", ".join(p for p in parts if p)),
        ("Seed", "" if recipe.get("seed") is None else str(recipe["seed"])),
        ("State", state),
        ("Last change", str(status.get("updated") or "")),
    ]
    return [(term, text) for term, text in rows if text]


def environment_rows(environment: Json) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(facts, package versions) as pairs of text."""
    facts = [(k, v) for k, v in environment.items() if not isinstance(v, dict)]
    facts += [(f"backbone {k}", v) for k, v in part(environment, "backbone").items()]
    return [(k, str(v)) for k, v in facts], [(k, str(v)) for k, v in part(environment, "packages").items()]

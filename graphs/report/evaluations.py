"""Finished evaluations as one self-contained page: figures with intervals, paired comparisons, and of every evaluation
the first 200 items with all that was made of them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from alignment.run_dir import write_atomic
from explain.render import CSS
from graphs.evaluation.compare import Finished, compared
from graphs.evaluation.measures import RIGHT_OR_WRONG
from graphs.report import formats, views
from graphs.report.intervals import Panel, Row, forest, methods, reading
from graphs.report.palette import DARK, LIGHT, SERIES, resolve
from graphs.report.stages import reliability_chart
from graphs.report.templates import template
from graphs.report.tree import STYLE

ITEMS = 200  # of an evaluation that the page holds; the others are in samples.jsonl
LONG = 2000  # characters of a text that the page holds
# what is drawn of an evaluation; the others are in its table
DRAWN = ("token_perplexity", "bits_per_byte", "reward", "rougeL", "bleu")
# the page's own, and no other: shows the items that hold the words and are of the kind that is chosen
SCRIPT = """
for (const box of document.querySelectorAll("form.filter")) {
  const items = [...document.getElementById(box.dataset.items).children];
  const count = box.querySelector("output");
  const apply = () => {
    const words = box.words.value.toLowerCase(), kind = box.kind.value;
    let shown = 0;
    for (const item of items) {
      const ofKind = kind === "" || item.dataset.kinds.split(" ").includes(kind);
      item.hidden = !(ofKind && item.textContent.toLowerCase().includes(words));
      shown += !item.hidden;
    }
    count.textContent = shown + " of " + items.length;
  };
  box.addEventListener("input", apply);
  box.addEventListener("submit", event => event.preventDefault());
  box.hidden = false;
  apply();
}
"""
FACTS = ("targets", "choices", "answer", "chosen", "rejected")
VERDICTS = {True: "right", False: "wrong", None: ""}
Json = dict[str, Any]


def evaluations_page(found: Sequence[Finished]) -> str:
    """The page of some evaluations, those of one name together, in their order."""
    groups: dict[str, list[Finished]] = {}
    for one in found:
        groups.setdefault(str(one.about["name"]), []).append(one)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    page = template("evaluations.html.j2").render(
        groups=[_group(number, name, members) for number, (name, members) in enumerate(groups.items(), 1)],
        script=Markup(SCRIPT),
        script_hash=f"sha256-{digest}",
        tree_css=Markup(STYLE),
        explain_css=Markup(CSS),
        light=LIGHT,
        dark=DARK,
        colours=range(1, SERIES + 1),
    )
    return formats.clean(page)


def write_page(found: Sequence[Finished], path: Path) -> list[Path]:
    """Writes the page, and beside it every plot as a picture; returns what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, evaluations_page(found))
    written = [path]
    groups: dict[str, list[Finished]] = {}
    for one in found:
        groups.setdefault(str(one.about["name"]), []).append(one)
    for name, members in groups.items():
        drawn = [(f"reliability-{of}", chart) for of, chart in _reliability([(one.path.name, one) for one in members])]
        for metric, plot in [*_plots(members), *drawn]:
            picture = path.with_name(f"{path.stem}-{name}-{metric.replace('@', '-at-')}.svg")
            write_atomic(picture, formats.clean(_standalone(str(plot))))
            written.append(picture)
    return written


def _standalone(svg: str) -> str:
    style = (Path(__file__).parent / "style.css.j2").read_text(encoding="utf-8")
    own = "\n".join(line for line in style.splitlines() if line.startswith(("svg ", ".g-", ".f-")))
    font = "text { font-family: system-ui, 'Liberation Sans', Arial, sans-serif; }"
    ground = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
    head, _, rest = svg.partition(">")
    return f"{head}><style>{font}\n{resolve(own, LIGHT)}</style>{ground}{rest}"


def _group(number: int, name: str, members: Sequence[Finished]) -> Json:
    metrics = list(dict.fromkeys(metric for one in members for metric in _told(one)))
    named = list(zip(told_apart([str(one.about["subject"]) for one in members], members), members, strict=True))
    items, count = _items(named)
    # each against the first, and against the one before it
    pairs = [(named[i], named[k]) for k in range(1, len(named)) for i in dict.fromkeys((0, k - 1))]
    return {
        "id": f"evaluation-{number}",
        "name": name,
        "about": _about(named),
        "plots": _plots(members),
        "rows": [
            (
                metric,
                [(name, *_cell(metric, _told(one).get(metric))) for name, one in named],
            )
            for metric in metrics
        ],
        "methods": methods([figure for one in members for figure in _figures(one).values()]),
        "counts": [(name, _count(one)) for name, one in named],
        "comparisons": [
            _comparison(compared(one, other) | {"subjects": [own, another]})
            for (own, one), (another, other) in pairs
            if _common(one, other)
        ],
        "reliability": _reliability(named),
        "items": items,
        "kinds": _kinds(members),
        "more": max(0, count - ITEMS),
        "trees": _trees(members),
        "explanations": [fragment for one in members for fragment in _explanations(one)],
        "settings": [
            (name, yaml.safe_dump(one.about["evaluation"], sort_keys=False, allow_unicode=True)) for name, one in named
        ],
        "environments": [(name, *views.environment_rows(one.about.get("environment") or {})) for name, one in named],
    }


def told_apart(names: Sequence[str], members: Sequence[Finished]) -> list[str]:
    """The names; of those that are the same the seed is said, and of those that still are, the hash of the folder."""
    found = list(names)
    for more in (lambda one: f"seed {one.about['seed']}", lambda one: one.path.name.rpartition("-")[2]):
        same = {name for name in found if found.count(name) > 1}
        found = [f"{name}, {more(one)}" if name in same else name for name, one in zip(found, members, strict=True)]
    return found


def _explanations(one: Finished) -> list[tuple[str, Markup]]:
    """What ``junto eval report --explain`` has left of this evaluation against the first."""
    files = [(path.name, json.loads(path.read_text())) for path in sorted((one.path / "explanations").glob("*.json"))]
    drawn, _ = views.explanation_views(files, [])
    return [(f"{one.about['subject']}, item {name.partition('-')[2]}", fragment) for name, fragment in drawn]


def _about(named: Sequence[tuple[str, Finished]]) -> list[tuple[str, str]]:
    """What was asked and how it was measured: once where it is the same for all, otherwise of each."""
    found = []
    for term, tell in FACTS_OF.items():
        told = [(name, "" if (fact := tell(one)) is None else str(fact)) for name, one in named]
        if len({text for _, text in told}) == 1:
            found.append((term, told[0][1]))
        else:
            found += [(f"{term}, {name}", text) for name, text in told]
    return [(term, text) for term, text in found if text]


def _data(one: Finished) -> str:
    data = one.about["evaluation"]["data"]
    return data if isinstance(data, str) else json.dumps(data)


def _judge(one: Finished) -> Any:
    judge = one.about.get("judge")
    return (judge.get("run") or judge.get("function")) if isinstance(judge, dict) else judge


FACTS_OF: dict[str, Callable[[Finished], Any]] = {
    "Kind": lambda one: one.about["evaluation"]["kind"],
    "Data": _data,
    "Split": lambda one: one.about["evaluation"]["split"],
    "Seed": lambda one: one.about["seed"],
    "Judge": _judge,
    "BLEU": lambda one: one.results["metrics"].get("bleu", {}).get("signature"),
    "chrF": lambda one: one.results["metrics"].get("chrf", {}).get("signature"),
}


def _reliability(named: Sequence[tuple[str, Finished]]) -> list[tuple[str, Markup]]:
    charts = [(name, reliability_chart(one.results["metrics"].get("reliability") or [])) for name, one in named]
    return [(name, chart) for name, chart in charts if chart]


def _figures(one: Finished) -> Json:
    return {name: figure for name, figure in one.results["metrics"].items() if formats.is_interval(figure)}


def _told(one: Finished) -> Json:
    """Figures with an interval, and plain numbers such as the calibration error."""
    return {
        name: figure
        for name, figure in one.results["metrics"].items()
        if formats.is_interval(figure) or (isinstance(figure, int | float) and not isinstance(figure, bool))
    }


def _cell(metric: str, figure: Any) -> tuple[str, str]:
    if figure is None:
        return formats.DASH, formats.DASH
    if not formats.is_interval(figure):
        return formats.number(figure), formats.DASH
    return formats.interval(figure, _form(metric))


def _form(metric: str) -> Any:
    return formats.percent if metric in RIGHT_OR_WRONG or metric.startswith("pass@") else None


def _count(one: Finished) -> str:
    results = one.results
    said = f"{results['n']} of {results['asked']} items" if not results["complete"] else f"{results['n']} items"
    return said + (f", {results['errors']} failed" if results["errors"] else "")


def _plots(members: Sequence[Finished]) -> list[tuple[str, Markup]]:
    """A forest plot of every metric that is drawn, a row for each subject."""
    found = []
    for metric in dict.fromkeys(name for one in members for name in _figures(one)):
        if _form(metric) is None and metric not in DRAWN:
            continue
        shares = _form(metric) is not None
        measured = [one for one in members if metric in _figures(one)]
        names = told_apart([_short(one) for one in measured], measured)
        rows = [Row(name, _figures(one)[metric]) for name, one in zip(names, measured, strict=True)]
        panel = Panel("%" if shares else "", rows, factor=100.0 if shares else 1.0)
        found.append((metric, forest(metric, [panel], _form(metric))))
    return found


def _short(one: Finished) -> str:
    name = str(one.about["subject"]).rstrip("/").rpartition("/")[2]
    return name if len(name) <= 18 else f"{name[:17]}…"


def _common(first: Finished, other: Finished) -> bool:
    return bool({row["id"] for row in first.rows("scores")} & {row["id"] for row in other.rows("scores")})


def _comparison(one: Json) -> Json:
    rows = []
    for metric, figures in one["metrics"].items():
        form = _form(metric)
        difference = formats.interval(figures["difference"], formats.points if form else None)
        values = [(form or formats.number)(figures[key]) for key in ("first", "second")]
        rows.append((metric, *values, *difference, reading(figures["difference"])))
    wins = [
        (words, *formats.interval(one[key], formats.percent))
        for key, words in (("win_rate", "win rate"), ("win_rate_at_equal_length", "win rate at equal length"))
        if key in one
    ]
    note = one.get("note", "")
    return {"subjects": one["subjects"], "n": one["n"], "rows": rows, "wins": wins, "note": note}


def _items(named: Sequence[tuple[str, Finished]]) -> tuple[list[Json], int]:
    """Each item with what every subject made of it, as many as a page holds; and how many there are."""
    of_each = []
    for name, one in named:
        scores = {(row["id"], row["sample"]): row for row in one.rows("scores")}
        by_item: dict[str, list[Json]] = {}
        for sample in one.rows("samples"):
            score = scores.get((sample["id"], sample["sample"]), {})
            by_item.setdefault(sample["id"], []).append(_sample(sample, score))
        of_each.append((name, by_item))
    found = []
    asked = [item for item in named[0][1].rows("items") if any(item["id"] in rows for _, rows in of_each)]
    for item in asked[:ITEMS]:
        answers = [(subject, sample) for subject, rows in of_each for sample in rows.get(item["id"], [])]
        verdicts = {sample["verdict"] for _, sample in answers}
        kinds = {
            "right": True in verdicts,
            "wrong": False in verdicts,
            "differ": {True, False} <= verdicts,
            "error": any(sample["error"] for _, sample in answers),
        }
        found.append(
            {
                "id": item["id"],
                "title": formats.wrap(_asked(item), 60.0, 1)[0],
                "asked": _cut(_asked(item)),
                "facts": [(key, _cut(_plain(item[key]))) for key in FACTS if item.get(key) not in (None, [])],
                "answers": answers,
                "marks": [(subject, VERDICTS[sample["verdict"]]) for subject, sample in answers],
                "kinds": " ".join(kind for kind, is_so in kinds.items() if is_so),
            }
        )
    return found, len(asked)


def _sample(sample: Json, score: Json) -> Json:
    rest: Json = {key: value for key, value in score.items() if key not in ("id", "sample")}
    told: Json = {key: sample[key] for key in ("loglikelihoods", "rewards", "loglikelihood", "tokens") if key in sample}
    verdict = next((bool(rest[name]) for name in RIGHT_OR_WRONG if name in rest), None)
    return {
        "text": _cut(str(sample["text"])) if "text" in sample else None,
        "error": str(sample.get("error") or ""),
        "verdict": verdict,
        "scores": [(key, _plain(value)) for key, value in (rest | told).items()],
    }


def _kinds(members: Sequence[Finished]) -> list[str]:
    judged = any(name in RIGHT_OR_WRONG for one in members for name in _figures(one))
    failed = any(one.results["errors"] for one in members)
    return [*(["right", "wrong"] if judged else []), *(["differ"] if judged and len(members) > 1 else [])] + (
        ["error"] if failed else []
    )


def _asked(item: Json) -> str:
    given: Any = item.get("prompt", item.get("text", ""))
    if isinstance(given, str):
        return given
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in given)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    return formats.number(value) if isinstance(value, int | float) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def _trees(members: Sequence[Finished]) -> list[Json]:
    councils: list[tuple[str, Mapping[str, Any]]] = [
        (sample["id"], sample["council"]) for one in members for sample in one.rows("samples") if "council" in sample
    ]
    return views.tree_views([(name, dict(council)) for name, council in councils], [])[0] if councils else []

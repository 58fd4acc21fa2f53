"""The verbs ``junto explain ...``: their options; the work is in ``graphs.cli.explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphs.cli.options import Json, RunsRoot

app = typer.Typer(no_args_is_help=True, help="Why a run's reward model decided as it did.")

RunName = Annotated[str, typer.Option("--run", metavar="NAME|PATH", help="A run, by name or path.")]
Question = Annotated[str, typer.Option("--question", help="What the responses answer.")]
Units = Annotated[
    str,
    typer.Option("--units", help="Cut into steps, sentences, phrases or words, or auto; a pair also by diff."),
]
Method = Annotated[str, typer.Option("--method", help="lime, anchor, shapley or all.")]
Perturbation = Annotated[
    str,
    typer.Option("--perturbation", help="What becomes of a unit that is off: remove, placeholder, infill; pair: swap."),
]
On = Annotated[str, typer.Option("--on", help="Whose parts to explain: those of the response or of the prompt.")]
Seed = Annotated[int, typer.Option("--seed", help="For what is sampled: more than 12 units.")]
Budget = Annotated[int | None, typer.Option("--budget", min=1, help="Texts to sample at most, for each method.")]
Drill = Annotated[
    bool | None,
    typer.Option("--drill/--no-drill", help="Explain the strongest unit again by word; default: where units are auto."),
]
Randomise = Annotated[bool, typer.Option("--randomise", help="Compare with the same model under a random head.")]
Freeze = Annotated[
    list[str] | None,
    typer.Option("--freeze", metavar="TEXT", help="Never remove this text, wherever it is written; may be repeated."),
]
Png = Annotated[Path | None, typer.Option("--png", help="Also draw the explanation into this file.")]
ComputeDtype = Annotated[
    str, typer.Option("--compute-dtype", help="float32 is exact; bfloat16 saves memory, and its noise shows.")
]


@app.command("text")
def explain_text(
    run_name: RunName,
    question: Question,
    response: Annotated[str, typer.Option("--response", help="The response to explain.")],
    units: Units = "auto",
    method: Method = "all",
    perturbation: Perturbation = "remove",
    on: On = "response",
    seed: Seed = 0,
    budget: Budget = None,
    drill: Drill = None,
    randomise: Randomise = False,
    freeze: Freeze = None,
    png: Png = None,
    json: Json = False,
    compute_dtype: ComputeDtype = "float32",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Which parts of a response made its reward."""
    from alignment.run_dir import RunDir
    from graphs.cli import explain
    from graphs.cli.output import results
    from graphs.cli.run import print_explanation

    with results(json) as out:
        kept = RunDir.open(run_name, runs_root)
        how = explain.How(units, method, perturbation, on, seed, budget, drill, randomise, png, tuple(freeze or ()))
        print_explanation(explain.explain_text(kept, question, response, units, compute_dtype, how), json, out)


@app.command("pair")
def explain_pair(
    run_name: RunName,
    question: Annotated[str | None, typer.Option("--question", help="What both responses answer.")] = None,
    first: Annotated[str | None, typer.Option("--first", help="One response.")] = None,
    second: Annotated[str | None, typer.Option("--second", help="The other one.")] = None,
    units: Units = "auto",
    method: Method = "all",
    perturbation: Perturbation = "remove",
    seed: Seed = 0,
    budget: Budget = None,
    drill: Drill = None,
    randomise: Randomise = False,
    freeze: Freeze = None,
    png: Png = None,
    json: Json = False,
    compute_dtype: ComputeDtype = "float32",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Why one response is preferred to another; without responses, the pair that the run's recipe names."""
    from alignment.run_dir import RunDir
    from graphs.cli import explain
    from graphs.cli.output import results
    from graphs.cli.run import print_explanation

    with results(json) as out:
        kept = RunDir.open(run_name, runs_root)
        how = explain.How(
            units, method, perturbation, "response", seed, budget, drill, randomise, png, tuple(freeze or ())
        )
        print_explanation(explain.explain_pair(kept, question, first, second, units, compute_dtype, how), json, out)


@app.command("audit")
def explain_audit(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run, by name or path.")],
    data: Annotated[Path, typer.Argument(help="Pairs, scored answers or answers: .jsonl or .json, or either .gz.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows that are read, drawn by the seed.")] = 400,
    probes: Annotated[
        int, typer.Option("--probes", min=0, help="Answers that are changed and scored again, some 25 times each.")
    ] = 64,
    explained: Annotated[
        int, typer.Option("--explained", min=0, help="Answers that LIME looks at word by word, some 200 texts each.")
    ] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    json: Json = False,
    compute_dtype: ComputeDtype = "float32",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Which surface features (length, politeness, lists …) a reward model goes by, over a data set."""
    from alignment.run_dir import RunDir
    from graphs.cli import audit
    from graphs.cli.output import results

    with results(json) as out:
        kept = RunDir.open(run_name, runs_root)
        found = audit.explain_audit(kept, data, rows, probes, explained, seed, compute_dtype)
        audit.print_audit(found, json, out)

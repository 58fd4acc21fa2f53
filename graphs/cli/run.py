"""``junto run GRAPH``: from names on the command line to the graphs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any

from alignment.errors import UsageError
from graphs.cli.output import console, printable, write_json
from graphs.cli.request import Request, base_of, run_of, show_plan, without_run

GRAPHS = {
    "align": "train a recipe: data, SFT, reward model, PPO, evaluation, report (RECIPE)",
    "council": "let experts reason about a question (--run or --model, --question)",
    "chat": "talk to the model of a run in the terminal (--run)",
    "evaluate": "compare SFT and policy of a run on held-out prompts (--run)",
    "explain": "explain why the reward model prefers one answer to another (--run)",
    "revise": "answer, let the judges score it, and revise it by their remark (--run, --question)",
}


def dispatch(request: Request, out: IO[str]) -> None:
    """Run the graph and write its result to ``out``. Raises UsageError for a name that there is not."""
    if request.allow_code and request.graph != "council":
        raise UsageError("--allow-code is for the experts of a council: junto run council --allow-code ...")
    if request.graph.endswith(".py") or ".py:" in request.graph:
        _foreign(request, out)
        return
    _known(request.graph)
    if request.model is not None and (request.graph != "council" or request.run is not None):
        raise UsageError("--model seats a model without a run in a council: junto run council --model ...")
    if request.task is not None and request.model is None:
        raise UsageError("--task goes with --model; a run or a recipe has its own, which --set task=... changes")
    {
        "align": _align,
        "council": _council,
        "chat": _chat,
        "evaluate": _evaluate,
        "explain": _explain,
        "revise": _revise,
    }[request.graph](request, out)


def list_graphs(name: str | None, drawn: bool) -> list[dict[str, Any]]:
    """``{"name", "summary"}`` of the graph called so, or of all; where they are ``drawn``, with nodes, edges and
    Mermaid source as well. Raises UsageError for a name that there is not."""
    if name is not None:
        _known(name)
    listed: list[dict[str, Any]] = [{"name": one, "summary": GRAPHS[one]} for one in ([name] if name else GRAPHS)]
    if drawn:
        from graphs.cli.draw import described

        listed = [graph | described(graph["name"]) for graph in listed]
    return listed


def _known(graph: str) -> None:
    if graph not in GRAPHS:
        from graphs.source import did_you_mean

        hint = did_you_mean(graph, list(GRAPHS)) or f"; there are {', '.join(GRAPHS)}"
        raise UsageError(f"there is no graph {graph!r}{hint}")


def _align(request: Request, out: IO[str]) -> None:
    from graphs.recipe import load_recipe

    if request.recipe is None:
        raise UsageError("run align needs a recipe, for example: junto run align recipes/quickstart.yaml")
    # quoted, so that a name such as 2026 stays text
    name = [f'name="{request.run}"'] if request.run is not None else []
    recipe = load_recipe(request.recipe, [*request.overrides, *name])
    base = base_of(request.recipe)
    if request.dry_run:
        show_plan(request, out, recipe, _align_plan(recipe, base, request))
        return

    from graphs.align import run_align
    from graphs.cli.asking import at_hand
    from graphs.cli.progress import Reporter

    with Reporter() as report:
        path = run_align(recipe, base, request.runs_root, request.fresh, report, at_hand(report))
    page = path / "report.html"
    if request.as_json:
        from alignment.run_dir import RunDir
        from graphs.cli.runs import show_run

        write_json(show_run(RunDir(path)), out)
    else:
        console(out).print(f"run: {path}\nreport: {page}")


def _align_plan(recipe: Any, base: Path, request: Request) -> dict[str, str]:
    """One line per stage. Reads the data, so that a malformed row is found here."""
    from alignment.rows import refuse_other_kind
    from graphs.recipe import load_task

    task = load_task(recipe.task, base)
    data = task.load(task.Options(**recipe.data), recipe.seed, base)
    config = recipe.reward
    if config.function is None:
        refuse_other_kind(config, data.pairs["train"] + data.pairs["validation"])
    pairs = "rows with scores" if config.loss == "regression" else "pairs"
    counts = [
        f"{len(rows['train'])} {what} to train on, {len(rows['validation'])} held out"
        for what, rows in (("instructions", data.sft), (pairs, data.pairs), ("prompts", data.prompts))
    ]
    path = request.runs_root / recipe.name
    held_out = min(recipe.evaluate.n, len(data.prompts["validation"]))
    there = "starts over" if request.fresh else "goes on where it stopped"
    stages = {
        "sft": f"{recipe.sft.method}, {recipe.sft.steps} steps of {recipe.sft.batch_size} rows",
        "reward": f"{config.function}, nothing to train"
        if config.function
        else f"{config.steps} steps of {config.batch_size} {pairs}, {config.loss}",
        "ppo": f"{recipe.ppo.iterations} iterations of {recipe.ppo.batch_size} rollouts of up to "
        f"{recipe.ppo.max_tokens} tokens",
        "evaluate": f"SFT and policy on up to {held_out} held-out prompts",
    }
    if recipe.test.n:
        stages["test"] = f"the same on up to {recipe.test.n} prompts of the test split"
    if recipe.stop_after is not None:
        names = list(stages)
        stages = {name: stages[name] for name in names[: names.index(recipe.stop_after) + 1]}
    run = f"{path} ({there if (path / 'config.yaml').exists() else 'new'})"
    return {"data": "; ".join([*counts, *data.notes]), **stages, "run": run}


def _council(request: Request, out: IO[str]) -> None:
    if request.model is None:
        run, recipe, task = run_of(request)
    else:
        recipe, task = without_run(request)
    if request.question is None:
        raise UsageError('run council needs a question: --question "..."')
    question = task.validate_question(request.question)
    if request.dry_run:
        from graphs.tools import tools_of

        seats, tools = recipe.council, tools_of(recipe.council, request.allow_code)
        names = ", ".join(
            f"{expert.name} ({'; '.join([expert.role, *(tool.name for tool in tools.get(expert.name, ()))])})"
            for expert in seats.experts
        )
        where = {"run": str(run)} if request.model is None else {"model": f"{request.model}, in every seat"}
        plan = {"experts": names, "rounds": f"up to {seats.rounds}, {seats.max_total_tokens} tokens", **where}
        show_plan(request, out, recipe, plan | {"question": question})
        return

    from graphs.cli.asking import at_hand
    from graphs.cli.council import CouncilView, print_result
    from graphs.results import place
    from graphs.seating import seat_model
    from graphs.sitting import run_council

    screen = console(sys.stderr if request.as_json else out)
    with CouncilView(screen, [expert.name for expert in recipe.council.experts]) as view:
        asking, settings = at_hand(view), list(request.overrides)
        if request.model is None:
            result = run_council(run, question, settings, view, request.thread, request.allow_code, asking)
        else:
            result = seat_model(request.model, recipe, question, view, request.thread, request.allow_code, asking)
    if request.as_json:
        write_json(result, out)
    else:
        print_result(result, screen)
    if request.model is None:
        screen.print(f"tree: {place(run, 'trees', result['question']).with_suffix('.html')}")


def _revise(request: Request, out: IO[str]) -> None:
    run, recipe, task = run_of(request)
    if request.question is None:
        raise UsageError('run revise needs a question: --question "..."')
    question = task.validate_question(request.question)
    if request.dry_run:
        config = recipe.revise
        turns = f"up to {config.turns} by {config.role}, until one scores above {config.accept_above:g}"
        show_plan(request, out, recipe, {"turns": turns, "run": str(run), "question": question})
        return

    from graphs.cli.council import CouncilView
    from graphs.cli.revise import print_revision
    from graphs.results import place
    from graphs.revise import run_revise

    screen = console(sys.stderr if request.as_json else out)
    with CouncilView(screen) as view:
        result = run_revise(run, question, list(request.overrides), view, request.thread)
    if request.as_json:
        write_json(result, out)
    else:
        print_revision(result, place(run, "revisions", result["question"]), screen)


def _foreign(request: Request, out: IO[str]) -> None:
    run, recipe, task = run_of(request)
    if request.question is None:
        raise UsageError(f'run {request.graph} needs a question: --question "..."')
    question = task.validate_question(request.question)
    if request.dry_run:
        show_plan(request, out, recipe, {"run": str(run), "question": question})
        return

    from graphs.cli.council import CouncilView
    from graphs.foreign import run_foreign

    screen = console(sys.stderr if request.as_json else out)
    with CouncilView(screen) as view:
        state = run_foreign(request.graph, run, question, list(request.overrides), view, request.thread)
    if request.as_json:
        write_json(json.loads(json.dumps(state, default=_plain)), out)
    else:
        answer = state.get("answer")
        screen.print(f"answer: {printable(str(answer))}" if answer is not None else printable(str(state)), markup=False)


def _plain(value: Any) -> Any:
    """What JSON does not know, of a state of somebody's own."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def _evaluate(request: Request, out: IO[str]) -> None:
    run, recipe, _ = run_of(request)
    if request.dry_run:
        plan = {"evaluate": f"SFT and policy on up to {recipe.evaluate.n} held-out prompts", "run": str(run)}
        show_plan(request, out, recipe, plan)
        return

    from graphs.cli import evaluation
    from graphs.evaluation.run import Asked

    held = recipe.evaluate
    asked = Asked(request.runs_root, of_recipe=request.overrides, limit=held.n, seeds=[held.seed])
    name = request.run or recipe.name  # as the user calls it, which names the evaluation
    result = evaluation.run([name], [f"{name}:{role}" for role in ("sft", "policy")], asked)
    result |= evaluation.compare([one["path"] for one in result["evaluations"]], request.runs_root)
    if request.as_json:
        write_json(result, out)
        return
    evaluation.print_results(result["evaluations"], console(out))
    evaluation.print_comparisons(result["comparisons"], console(out))


def _explain(request: Request, out: IO[str]) -> None:
    run, recipe, _ = run_of(request)
    if request.dry_run:
        show_plan(request, out, recipe, {"explain": f"{len(recipe.explain)} pairs named", "run": str(run)})
        return

    from alignment.run_dir import RunDir
    from graphs.cli.explain import explain_pair

    explanation = explain_pair(RunDir(run), request.question, None, None, "auto", "float32")
    print_explanation(explanation, request.as_json, out)


def _chat(request: Request, out: IO[str]) -> None:
    run, recipe, _ = run_of(request)
    if request.dry_run:
        show_plan(request, out, recipe, {"chat": "in the terminal", "run": str(run)})
        return
    from graphs.cli.chat import Wanted, run_chat

    run_chat(Wanted(str(run), runs_root=request.runs_root), request.thread, False)


def print_explanation(explanation: dict[str, Any], as_json: bool, out: IO[str]) -> None:
    """The JSON itself, or what explain.render makes of it for a terminal."""
    if as_json:
        write_json(explanation, out)
        return
    from explain.render import terminal
    from explain.result import from_json

    console(out).print(terminal(from_json(explanation)))

"""A council that asks a person before a tool or its verdict, and the threads that it leaves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from agents.tool_expert import Outcome
from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs import kept_threads
from graphs.align import run_align
from graphs.asking import Waiting, allowed_in, answer, decision_of, of_shown, request_of, tied
from graphs.cli.asking import decided
from graphs.cli.main import main
from graphs.recipe import load_recipe
from graphs.sitting import run_council
from graphs.writing import _permitted
from tests.graphs.test_council_tools import TASK, TOOLS

QUESTION = "4 7 8 8"
NOTED = """
@tool
def noted(digit: int) -> int:
    \"\"\"Gives a digit back.

    Args:
        digit: the digit
    \"\"\"
    import os
    with open(os.environ["NOTED"], "a") as file:
        file.write(str(digit))
    return digit
"""


@pytest.fixture(scope="module")
def trained(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run ``tiny``, whose lines are two digits each."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "digits.py").write_text(TASK)
    (folder / "my_tools.py").write_text(TOOLS + NOTED)
    content = {
        "name": "tiny",
        "task": "digits.py",
        "stop_after": "sft",
        "data": {"lines": 24, "pairs": 16, "prompts": 24},
        "backbone": {"model": str(wide_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 1, "batch_size": 4},
        "council": {
            "experts": [
                {"name": "Ada", "role": "sft", "tools": ["my_tools.py:spell", "my_tools.py:noted"]},
                {"name": "Bea", "role": "sft"},
                {"name": "Carl", "role": "sft", "temperature": 1.5},
            ],
            "rounds": 2,
            "max_total_tokens": 20000,
            "vote": "majority",
            "scorer": "logprob",
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    run_align(load_recipe(folder / "recipe.yaml"), folder, folder / "runs", False, lambda event: None)
    return folder / "runs"


def sat(runs: Path, thread: str, before: list[str], on_ask: Any = None, decisions: Any = None) -> dict[str, Any]:
    settings = [f"council.ask_before={json.dumps(before)}"]
    return run_council(
        runs / "tiny", QUESTION, settings, lambda event: None, thread, on_ask=on_ask, decisions=decisions
    )


def always(kind: str, **more: Any) -> Callable[[Waiting], dict[str, Any]]:
    return lambda waiting: {
        name: answer(kind, request_of(one)["name"], more.get("args"), more.get("message", ""))
        for name, one in waiting.asked.items()
    }


def waits(runs: Path, name: str) -> str:
    """A thread that waits for a decision between two answers: random weights leave as often as they finish."""
    for number in range(60):
        try:
            sat(runs, f"{name} {number}", ["conclude"])
        except Waiting as waiting:
            [asked] = waiting.asked.values()
            if len({line["answer"] for line in request_of(asked)["args"]["lines"]}) > 1:
                return waiting.thread
    raise AssertionError("nobody finished")


def test_a_person_has_the_last_word_on_the_verdict(trained: Path) -> None:
    asked: list[Waiting] = []

    def approve(waiting: Waiting) -> dict[str, Any]:
        asked.append(waiting)
        return always("approve")(waiting)

    approved = sat(trained, waits(trained, "approved"), ["conclude"], approve)
    [[request]] = [list(one.asked.values()) for one in asked]
    args = request_of(request)["args"]
    assert (args["answer"], args["question"]) == (approved["answer"], QUESTION)
    assert (
        allowed_in(request) == ["approve", "edit", "reject"] and approved["notes"][-1] != "the answer is a person's own"
    )
    finals = [t for t in approved["thoughts"] if t["status"] == "final"]
    assert len(args["lines"]) == len(finals) and {line["expert"] for line in args["lines"]} == {
        t["expert"] for t in finals
    }

    own = sat(trained, waits(trained, "own"), ["conclude"], always("edit", args={"answer": "42"}))
    assert own["answer"] == "42" and own["notes"][-1] == "the answer is a person's own"
    none = sat(trained, waits(trained, "none"), ["conclude"], always("reject", message="too short"))
    assert none["answer"] is None and none["notes"][-1] == "a person rejected the verdict: too short"
    nonsense = sat(
        trained, waits(trained, "nonsense"), ["conclude"], lambda waiting: {name: "yes!" for name in waiting.asked}
    )
    assert nonsense["answer"] is None and "none of approve, edit, reject" in nonsense["notes"][-1]


def test_another_line_than_the_vote_is_taken(trained: Path) -> None:
    def other(waiting: Waiting) -> dict[str, Any]:
        [(name, request)] = waiting.asked.items()
        args = request_of(request)["args"]
        chosen = next(line["answer"] for line in args["lines"] if line["answer"] != args["answer"])
        return {name: answer("edit", "conclude", {"answer": chosen})}

    result = sat(trained, waits(trained, "other"), ["conclude"], other)
    assert result["notes"][-1] == "a person took another line than the vote"


def test_a_tool_is_called_only_when_a_person_permits_it(trained: Path, first_calls: dict[str, Any]) -> None:
    first_calls["Ada"] = {"name": "spell", "arguments": {"digit": 3}}
    asked: list[dict[str, Any]] = []

    def refuse(waiting: Waiting) -> dict[str, Any]:
        asked.extend(request_of(one)["args"] for one in waiting.asked.values())
        return always("reject", message="not today")(waiting)

    refused = sat(trained, "tools", ["tool"], refuse)
    calls = [call for thought in refused["thoughts"] for call in thought["calls"]]
    assert calls and all(
        call["failed"] and call["result"] == "error: a person refused this call: not today" for call in calls
    )
    assert [(one["tool"], one["arguments"]) for one in asked] == [(c["tool"], c["arguments"]) for c in calls]
    assert not any(expert["status"] == "crashed" for expert in refused["experts"])

    def permit(waiting: Waiting) -> dict[str, Any]:
        assert all(allowed_in(one) == ["approve", "reject"] for one in waiting.asked.values())
        return always("approve")(waiting)

    permitted = sat(trained, "tools permitted", ["tool"], permit)
    plain = sat(trained, "tools permitted", [])  # the thread is done, and is read
    assert permitted["thoughts"] == plain["thoughts"]
    calls = [call for thought in permitted["thoughts"] for call in thought["calls"]]
    assert calls and not any("refused" in call["result"] for call in calls)


def test_a_permitted_call_is_made_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_calls: dict[str, Any]
) -> None:
    """Of several calls in a step each has its own decision, for which LangGraph begins the step anew."""
    first_calls["Ada"] = {"name": "noted", "arguments": {"digit": 3}}
    generate = Engine.generate

    def three_calls(engine: Engine, requests: Any) -> Any:
        parts = [str(request.seed).rpartition("/") for request in requests]
        as_first = [
            replace(request, seed=f"{before}/1") if part in ("2", "3") and "Ada" in before else request
            for request, (before, _, part) in zip(requests, parts, strict=True)
        ]
        return generate(engine, as_first)

    monkeypatch.setattr(Engine, "generate", three_calls)
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    decisions: list[int] = []

    def permit(waiting: Waiting) -> dict[str, Any]:
        decisions.append(len(waiting.asked))
        return always("approve")(waiting)

    permitted = sat(trained, "made once", ["tool"], permit)
    calls = [call for thought in permitted["thoughts"] for call in thought["calls"]]
    assert len(calls) == sum(decisions) >= 3 and [call["result"] for call in calls] == ["3"] * len(calls)
    assert (tmp_path / "noted").read_text() == "3" * len(calls)


@pytest.mark.parametrize("count", [1, 3])
def test_all_experts_have_a_call_permitted_at_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_calls: dict[str, Any], count: int
) -> None:
    names = ("Ada", "Bea", "Carl")[:count]
    seats = [{"name": name, "role": "sft", "tools": ["my_tools.py:noted"]} for name in names]
    first_calls |= {name: {"name": "noted", "arguments": {"digit": 3}} for name in names}
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    monkeypatch.chdir(trained.parent)  # where what --set names is looked for
    settings = ["council.ask_before=[tool]", f"council.experts={json.dumps(seats)}"]
    asked: list[int] = []

    def permit(waiting: Waiting) -> dict[str, Any]:
        asked.append(len(waiting.asked))
        return always("approve")(waiting)

    result = run_council(trained / "tiny", QUESTION, settings, lambda event: None, f"all {count}", on_ask=permit)
    calls = [call["result"] for thought in result["thoughts"] for call in thought["calls"]]
    assert asked[0] == count and len(calls) == sum(asked) and calls.count("3") >= 2 * count


def test_a_call_that_comes_out_otherwise_does_not_get_anothers_result() -> None:
    """As where bfloat16 makes the step anew with other calls: of the first one a person refuses to decide anew."""
    made: list[int] = []
    written = [3, 5]

    def step(state: dict[str, Any]) -> dict[str, Any]:
        def of(digit: int) -> Outcome:
            return _permitted("Ada", "noted", {"digit": digit}, lambda: (made.append(digit), (str(digit), False))[1])

        return {"found": [of(digit) for digit in written]}

    builder = StateGraph(dict)
    builder.add_node("step", step)
    builder.add_edge(START, "step")
    graph = builder.compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}

    def asked() -> dict[str, Any]:
        return {one.id: one.value for task in graph.get_state(config).tasks for one in task.interrupts}

    def approve() -> Any:
        return graph.invoke(Command(resume=of_shown({name: answer("approve") for name in asked()}, asked())), config)

    graph.invoke({}, config)
    approve()
    assert made == [3]
    written[0] = 4
    found = approve()["found"]
    assert made == [3, 5] and found[1] == ("5", False) and found[0][1] and "refused" in found[0][0]


def test_what_waits_is_kept_and_nothing_is_written_twice(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--runs-root", str(trained)]
    kept = waits(trained, "kept")
    command = ["run", "council", "--run", "tiny", "--question", QUESTION, "--thread", kept, *root]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main([*command, "--set", "council.ask_before=[conclude]"]) == 1
    assert "waits for a decision (before conclude)" in capsys.readouterr().err
    assert main(["threads", "show", "tiny", kept, "--json", *root]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["question"], shown["answer"]) == ("waiting", QUESTION, None)
    [request] = shown["asked"].values()
    assert main(["threads", "show", "tiny", kept, *root]) == 0
    assert "waits for a decision:" in capsys.readouterr().out
    assert main(["threads", "fork", "tiny", kept, "--to", "copy", *root]) == 0
    written: list[Any] = []
    row = Engine._row
    monkeypatch.setattr(Engine, "_row", lambda engine, request: written.append(request) or row(engine, request))
    for arguments, sentence in (
        (["--decision", "perhaps"], "--decision perhaps is none of approve, edit, reject"),
        (["--decision", "edit"], "needs the --answer"),
    ):
        assert main(["threads", "resume", "tiny", kept, *arguments, *root]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["threads", "resume", "tiny", kept, *root]) == 1  # nobody is there to decide
    assert "waits for a decision" in capsys.readouterr().err
    assert main(["threads", "resume", "tiny", kept, "--decision", "approve", "--json", *root]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == request_of(request)["args"]["answer"]
    edit = ["--decision", "edit", "--answer", "mine"]
    assert main(["threads", "resume", "tiny", "copy", *edit, "--json", *root]) == 0  # the copy waited, too
    assert json.loads(capsys.readouterr().out)["answer"] == "mine"
    assert not written
    assert main(["threads", "resume", "tiny", kept, "--decision", "approve", *root]) == 2
    assert "asks for no decision" in capsys.readouterr().err


def test_threads_are_listed_forked_and_pruned(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--runs-root", str(trained)]
    first = sat(trained, "to prune", [])
    database = RunDir(trained / "tiny").path / "threads.sqlite"
    with kept_threads.opened(database) as saver:
        steps = [one.checkpoint["id"] for one in kept_threads.history(saver, "to prune")]
        before = kept_threads.state_of(saver, "to prune")
    assert before["state"] == "done" and len(steps) > 3
    assert main(["threads", "ls", "tiny", "--json", *root]) == 0
    listed = {one["thread"]: one for one in json.loads(capsys.readouterr().out)["threads"]}
    assert listed["to prune"]["answer"] == first["answer"] and listed["to prune"]["checkpoints"] == len(steps)

    # behind the first steps it has them, before them it draws its own
    texts = {}
    for name, at in (("forked", steps[3]), ("forked before", steps[2])):
        assert main(["threads", "fork", "tiny", "to prune", "--to", name, "--at", at, *root]) == 0
        with kept_threads.opened(database) as saver:
            assert kept_threads.state_of(saver, name)["state"] == "unfinished"
        capsys.readouterr()
        assert main(["threads", "resume", "tiny", name, "--json", *root]) == 0
        thoughts = json.loads(capsys.readouterr().out)["thoughts"]
        texts[name] = [t["text"] for t in thoughts if t["round"] == 1]
    assert texts["forked"] == [t["text"] for t in first["thoughts"] if t["round"] == 1] != texts["forked before"]

    assert main(["threads", "prune", "tiny", "to prune", *root]) == 0
    with kept_threads.opened(database) as saver:
        after = kept_threads.state_of(saver, "to prune")
        assert (after["state"], after["checkpoints"], after["values"]) == ("done", 1, before["values"])
    assert sat(trained, "to prune", [])["thoughts"] == first["thoughts"]
    assert main(["threads", "prune", "tiny", "to prune", "--older-than", "0", *root]) == 0
    with kept_threads.opened(database) as saver:
        assert "to prune" not in kept_threads.names(saver) and "forked" in kept_threads.names(saver)
        for wrong in (
            lambda: kept_threads.found(saver, "gone"),
            lambda: kept_threads.fork(saver, "forked", "forked", None),
        ):
            with pytest.raises(UsageError):
                wrong()
        with pytest.raises(UsageError, match="has 0 checkpoints 'x'"):
            kept_threads.fork(saver, "forked", "new", "x")
        with pytest.raises(UsageError, match="thread of another graph"):
            kept_threads.fork(saver, "forked", "revise/new", None)


def test_an_answer_is_to_what_was_shown_alone(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a step that is written anew calls something else than what a person has seen."""
    from graphs import threads

    thread = waits(trained, "shown")
    real = threads.of_shown

    def of_another(answers: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        return real(answers, {name: one | {"review_configs": []} for name, one in asked.items()})

    monkeypatch.setattr(threads, "of_shown", of_another)
    refused = sat(trained, thread, ["conclude"], always("approve"))
    assert refused["answer"] is None and "otherwise than what was decided on" in refused["notes"][-1]


def test_a_fork_of_a_decided_thread_asks_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread = waits(trained, "decided")
    database = RunDir(trained / "tiny").path / "threads.sqlite"
    with kept_threads.opened(database) as saver:
        at = kept_threads.history(saver, thread)[-1].checkpoint["id"]
    assert sat(trained, thread, ["conclude"], always("reject"))["answer"] is None
    with kept_threads.opened(database) as saver:
        kept_threads.fork(saver, thread, "decided otherwise", at)
        assert kept_threads.state_of(saver, "decided otherwise")["state"] == "unfinished"
    assert sat(trained, "decided otherwise", ["conclude"], always("approve"))["answer"] is not None


@pytest.mark.parametrize(
    ("given", "kind", "more"),
    [
        (answer("approve"), "approve", ""),
        ({"type": "approve"}, "approve", ""),
        (answer("edit", "conclude", {"answer": "x"}), "edit", {"answer": "x"}),
        (answer("reject", message="no"), "reject", "no"),
        ({"decisions": []}, "reject", "the answer was none of approve, edit, reject"),
        ({"type": "edit"}, "reject", "the edit had no edited_action with args"),
        (None, "reject", "the answer was none of approve, edit, reject"),
    ],
)
def test_decisions(given: Any, kind: str, more: Any) -> None:
    found = decision_of(given)
    assert found.kind == kind and more in ("", found.args, found.message)


def test_what_a_client_goes_on_with_is_tied_to_what_it_was_shown() -> None:
    request = {"action_requests": [{"name": "tool"}], "review_configs": []}
    one, two = {"a": request}, {"a": request, "b": request | {"more": 1}}
    shown = answer("approve") | {"shown": request}
    assert tied(answer("approve"), one) == tied({"a": answer("approve")}, one) == {"a": shown}
    assert tied({"a": answer("approve"), "b": answer("reject")}, two)["b"]["shown"] == two["b"]
    for resume, asked in (("yes", {"a": "what?"}), (answer("approve"), two), ("yes", {}), ({"a": 1}, {"a": "what?"})):
        assert tied(resume, asked) == resume


def test_a_person_at_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    args = {
        "question": "q",
        "answer": "b",
        "lines": [{"expert": "A", "answer": a, "score": None} for a in ("a", "b\x1b")],
    }
    request = {
        "action_requests": [{"name": "conclude", "args": args, "description": "The verdict."}],
        "review_configs": [{"action_name": "conclude", "allowed_decisions": ["approve", "edit", "reject"]}],
    }
    waiting = Waiting("t", {"1": request})
    for typed, expected in (
        ("", answer("approve")),
        ("1", answer("edit", "conclude", {"answer": "a"})),
        ("7", answer("edit", "conclude", {"answer": "7"})),
        ("r no good", answer("reject", message="no good")),
        ("r", answer("reject")),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{typed}\n"))
        assert decided(waiting) == {"1": expected}
    assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(Waiting):
        decided(waiting)

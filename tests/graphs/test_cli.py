"""The command line: what it imports, what it says, and its exit codes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from alignment.run_dir import RunDir
from explain import explain_pair
from explain.result import to_json
from graphs.board import Board
from graphs.cli import doctor
from graphs.cli.columns import drawn
from graphs.cli.council import CouncilView, print_result
from graphs.cli.main import main
from graphs.cli.progress import Reporter, describe, duration
from graphs.cli.run import print_explanation
from graphs.recipe import load_recipe, resolved

ROOT = Path(__file__).parents[2]
RECIPE = "name: kept\ntask: graphs.tasks.game24\ndata: {lines: 8, pairs: 8, prompts: 4}\n"
TASK = """
from pydantic import BaseModel
class Options(BaseModel): pass
def load(options, seed, base):
    %s
def prompt(question, board=(), persona=""): ...
def check(question, response): ...
def validate_question(question): ...
STEP = None
"""


@pytest.fixture
def kept_run(tmp_path, monkeypatch) -> RunDir:
    """A run directory that `run align` could have left, under the folder of runs."""
    monkeypatch.setenv("JUNTO_RUNS", str(tmp_path / "runs"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    run = RunDir(tmp_path / "runs" / "kept")
    run.create(resolved(load_recipe(recipe)), {"junto": "0.1.0"})
    run.set_stage("sft", state="done", step=4, total=4, seconds=75.0, results={"validation_loss": 0.5, "tokens": 9})
    margin = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50, "level": 0.95, "method": "Wilson"}
    run.set_stage("reward", state="running", step=1, total=3, results={"pair_accuracy": margin})
    run.append("metrics.jsonl", [{"stage": "sft", "step": 4, "total": 4, "loss": float("nan")}])
    run.set_status("interrupted", "reward", "stopped \x1b[31mby\x1b[0m the user")
    return run


def failure(capsys, *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


def one_object(capsys, *arguments: str) -> dict:
    """The command's JSON: exactly one object on stdout."""
    main([*arguments, "--json"])
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["runs", "ls"], ["graphs", "--json"], ["doctor", "--json"]]
)
def test_light_verbs_import_nothing_heavy(arguments, tmp_path):
    heavy = ["torch", "transformers", "langgraph", "langchain_core", "numpy", "alibi"]
    program = (
        "import sys; from graphs.cli.main import main; code = main(sys.argv[1:]);"
        f"print('HEAVY', [name for name in {heavy} if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "JUNTO_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    code = 0 if arguments[0] != "doctor" else int(done.stderr.split()[-1])
    assert done.stderr.endswith(f"HEAVY [] {code}\n"), done.stderr


def test_the_module_runs_and_help_names_every_verb():
    done = subprocess.run(
        [sys.executable, "-m", "graphs.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for verb in ("doctor", "graphs", "run", "chat", "explain", "runs"):
        assert f"│ {verb} " in done.stdout
    assert done.stderr == ""


TEXT = ["explain", "text", "--run", "kept", "--question", "4 7 8 8", "--response", "a b"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "alignn"], "there is no graph 'alignn'; did you mean \"align\"?"),
        (["run", "wholly-else"], "there are align, council, chat, evaluate, explain"),
        (["run", "align"], "run align needs a recipe"),
        (["run", "align", "gone.yaml"], "gone.yaml: there is no such recipe"),
        (["run", "council", "--question", "4 7 8 8"], "needs a run: --run NAME"),
        (["run", "council", "--run", "gone", "--question", "4 7 8 8"], "no run 'gone'; runs in"),
        (["run", "council", "--run", "kept"], "needs a question"),
        (["run", "council", "--run", "kept", "--question", ""], "the question is empty"),
        (["run", "council", "--run", "kept", "--question", " "], "the question is empty"),
        (["run", "council", "--run", "kept", "--question", "4 7"], "is no puzzle"),
        (["run", "council", "--run", "kept", "--question", "4 7 8 8", "--set", "council.ronds=1"], "council.rounds"),
        (["run", "evaluate", "--run", "kept", "--set", "evaluate.n=none"], "expected a whole number"),
        (["run", "explain", "--run", "kept"], "has no candidates under explain:"),
        (["explain", "pair", "--run", "kept", "--question", "4 7 8 8", "--first", "a"], "lacks --second"),
        (["explain", "pair", "--run", "kept", "--question", "4 7 8 8", "--first", "a", "--second", " "], "is empty"),
        (["explain", "text", "--run", "kept", "--question", "", "--response", "a"], "the question is empty"),
        (["explain", "text", "--run", "kept"], "Missing option '--question'"),
        ([*TEXT, "--method", "magic"], "Unknown method 'magic'; choose one of lime, anchor, shapley, all"),
        ([*TEXT, "--perturbation", "swap"], "needs two responses"),
        ([*TEXT, "--freeze", "c"], "'c' is to be frozen and is not in the text"),
        ([*TEXT, "--on", "system"], "on the response or on the prompt, not on 'system'"),
        (["runs", "show", "gone"], "no run 'gone'; runs in"),
        (["runs", "shwo"], "Did you mean 'show'"),
        (["run", "align", "--colour"], "No such option"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_exit_code_2(capsys, kept_run, arguments, says):
    code, err = failure(capsys, *arguments)
    assert code == 2
    [sentence] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert says in sentence
    assert "Traceback" not in err


def test_no_verb_shows_the_help_and_is_exit_code_2(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "Usage: junto" in out + err
    assert "error: a verb is missing" in err


def test_a_wrong_key_and_a_malformed_row_name_file_line_and_remedy(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE + "sft:\n  stepz: 3\n")
    code, err = failure(capsys, "run", "align", str(recipe), "--dry-run")
    assert (code, err) == (2, f'error: {recipe}:5: unknown key "sft.stepz"; did you mean "sft.steps"?\n')

    for kind in ("instructions", "pairs", "prompts"):
        (tmp_path / f"{kind}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 3}\n')
    recipe.write_text(
        "name: x\ntask: graphs.tasks.jsonl\n"
        "data: {instructions: instructions.jsonl, pairs: pairs.jsonl, prompts: prompts.jsonl}\n"
    )
    code, err = failure(capsys, "run", "align", str(recipe), "--dry-run")
    assert code == 2
    assert err.startswith(f'error: {tmp_path / "instructions.jsonl"}, line 2: "prompt" is a number; expected text; ')


def test_a_dry_run_prints_a_recipe_that_can_be_run_again(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JUNTO_RUNS", str(tmp_path / "runs"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE)
    arguments = ["run", "align", str(recipe), "--set", "sft.steps=7", "--run", "2026", "--dry-run"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    recipe.write_text(printed)
    again = load_recipe(recipe)
    assert (again.sft.steps, again.name) == (7, "2026")
    assert "# sft: lora, 7 steps of 16 rows" in printed
    shown = one_object(capsys, *arguments)
    assert shown["recipe"] == again.model_dump(mode="json")
    assert shown["plan"]["run"] == f"{tmp_path / 'runs' / '2026'} (new)"
    assert not (tmp_path / "runs").exists()


def test_runs_are_listed_and_shown(capsys, kept_run):
    listing = one_object(capsys, "runs", "ls")
    assert [(run["name"], run["state"], run["stage"]) for run in listing["runs"]] == [("kept", "interrupted", "reward")]
    shown = one_object(capsys, "runs", "show", "kept")
    assert shown["stages"]["sft"]["results"] == {"validation_loss": 0.5, "tokens": 9}
    assert shown["last_metrics"]["sft"]["loss"] is None  # NaN is no JSON
    assert shown["config"]["name"] == "kept" and shown["report"] is None
    assert main(["runs", "show", str(kept_run.path)]) == 0
    text = capsys.readouterr().out
    assert "validation_loss 0.5" in text and "1 min 15 s" in text and "pair_accuracy 0.8 [0.7, 0.9]" in text
    assert main(["runs", "ls"]) == 0
    assert "\x1b" not in text + capsys.readouterr().out  # a message cannot steer the terminal


def test_a_damaged_run_directory_is_exit_code_3(capsys, kept_run):
    (kept_run.path / "status.json").write_text('{"state": ')
    code, err = failure(capsys, "runs", "show", "kept")
    assert code == 3
    assert err.startswith(f"error: {kept_run.path}: its status cannot be read")


@pytest.mark.parametrize(
    ("statement", "code", "says"),
    [
        ("raise KeyboardInterrupt", 130, "interrupted; run the same command again to go on\n"),
        ("raise RuntimeError('one\\ntwo')", 1, "error: RuntimeError: one; run again with --debug for the traceback\n"),
        ("raise OSError(28, 'No space left on device', '/big')", 3, "error: the disk is full at /big; free some space"),
        (
            "import junto_no_such_package",
            3,
            "error: the package 'junto_no_such_package' is not installed; `junto doctor`",
        ),
        ("raise MemoryError", 3, "error: the memory does not suffice; lower batch_size"),
        ("import alignment.errors as e; raise e.SetupError('no')", 3, "error: no\n"),
    ],
)
def test_what_becomes_of_other_errors(capsys, tmp_path, statement, code, says):
    (tmp_path / "task.py").write_text(TASK % statement)
    (tmp_path / "mine.yaml").write_text("name: x\ntask: task.py\n")
    arguments = ["run", "align", str(tmp_path / "mine.yaml"), "--dry-run"]
    got, err = failure(capsys, *arguments)
    assert got == code
    assert err.startswith(says) and err.count("\n") == 1
    if code != 130:
        got, err = failure(capsys, *arguments, "--debug")
        assert got == code
        assert err.startswith("Traceback") and statement.split("raise ")[-1].split("(")[0] in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_with_one_sentence(tmp_path, sent):
    rows = tmp_path / "rows.jsonl"
    os.mkfifo(rows)
    command = [sys.executable, "-m", "graphs.cli", "data", "check", str(rows)]
    # opening waits until the command reads, and then the command waits for rows
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, rows.open("w"):
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted; run the same command again to go on\n")


def test_prints_of_a_task_do_not_disturb_the_json(capsys, tmp_path):
    (tmp_path / "task.py").write_text(
        TASK % "from graphs.tasks import TaskData; print('chatter'); s = {'train': [{'chosen': '', 'rejected': ''}]}"
        "; s['validation'] = s['train']; return TaskData(s, s, s)"
    )
    (tmp_path / "mine.yaml").write_text("name: x\ntask: task.py\n")
    assert one_object(capsys, "run", "align", str(tmp_path / "mine.yaml"), "--dry-run")["graph"] == "align"
    assert main(["run", "align", str(tmp_path / "mine.yaml"), "--dry-run", "--json"]) == 0
    assert capsys.readouterr().err == "chatter\n"


def test_doctor_names_remedies_and_exits_with_3(capsys, tmp_path, monkeypatch):
    declared = ["rich>=1", "pip>=999", "junto-no-such-package>=2", 'rich>=999; python_version < "3"']
    found, old, missing = doctor.package_checks(declared)
    assert found.state == "ok"
    assert old.state == "problem" and "tested: >=999" in old.found and "install 'pip>=999'" in old.remedy
    assert missing.state == "problem" and missing.found.startswith("not installed")
    full = doctor.disk_check("cache", tmp_path / "not" / "there", wanted_gb=1e9)
    assert full.state == "problem" and "JUNTO_CACHE" in full.remedy
    assert doctor.disk_check("cache", tmp_path, wanted_gb=0).state == "ok"
    assert doctor.python_check((3, 10, 9)).state == "problem"
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert doctor.cores_check().remedy.startswith("export OMP_NUM_THREADS=")

    monkeypatch.setattr(doctor, "requirements", lambda: declared)
    assert main(["doctor"]) == 3
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem ")]
    assert any("junto-no-such-package: not installed" in line and "; remedy: " in line for line in problems)
    checks = one_object(capsys, "doctor")
    assert checks["ok"] is False
    assert all(check["remedy"] for check in checks["checks"] if check["state"] != "ok")


def test_doctor_reads_what_the_project_declares():
    assert any(line.startswith("torch") for line in doctor.requirements())
    text = (ROOT / "pyproject.toml").read_text()
    for name, (_, version) in doctor.FROZEN.items():
        assert f'"{name}=={version}"' in text


def test_a_progress_line():
    event = {"stage": "ppo", "step": 2, "total": 8, "tokens_per_second": 81.6, "eta_seconds": 3725.0}
    metrics = {"objective/kl": 0.01234, "objective/scores": 1.5, "loss/value_avg": 9.0}
    assert describe(event | {"metrics": metrics}) == "ppo 2/8  reward 1.5  KL 0.0123  82 tokens/s  1 h 2 min left"
    done = {"stage": "reward", "metrics": {"pair_accuracy": {"value": 0.75, "low": 0.7, "high": 0.8}}, "done": True}
    assert describe(done) == "reward  done  pair_accuracy 0.75"
    assert [duration(seconds) for seconds in (0.4, 59, 61, 7200)] == ["0 s", "59 s", "1 min 1 s", "2 h 0 min"]


def test_without_a_terminal_progress_is_a_line_every_five_steps_or_ten_seconds():
    now = [0.0]
    out = io.StringIO()
    with Reporter(out, clock=lambda: now[0]) as report:
        for step in range(13):
            report({"stage": "sft", "step": step, "total": 12, "metrics": {}})
        now[0] = 5.0
        report({"stage": "reward", "step": 1, "total": 9})
        now[0] = 14.0
        report({"stage": "reward", "step": 2, "total": 9})
        now[0] = 15.0
        report({"stage": "reward", "step": 3, "total": 9})
        report({"stage": "reward", "step": 3, "total": 9, "message": "saved"})
    assert out.getvalue().split("\n") == [
        "sft 0/12", "sft 5/12", "sft 10/12", "sft 12/12", "reward 1/9", "reward 3/9", "reward 3/9  saved", "",
    ]  # fmt: skip


RESULT = {
    "question": "4 7 8 8",
    "answer": "[bold]24[/bold]",
    "solved": True,
    "rounds": 2,
    "experts": [
        {"name": "Ada", "status": "finished", "reason": ""},
        {"name": "Carl", "status": "left", "reason": "18 is not 24"},
    ],
    "thoughts": [
        {"id": "b", "parent": "a", "expert": "Ada", "text": "11 - 8 = 3", "score": 0.5, "status": "final"},
        {"id": "a", "parent": None, "expert": "Ada", "text": "4 + 7 = 11", "score": 1.0, "status": "active"},
        {
            "id": "c",
            "parent": None,
            "expert": "Carl",
            "text": "\x1b[2J",
            "score": None,
            "status": "left",
            "reason": "lost",
        },
    ],
    "tokens": 40,
    "seconds": 1.25,
    "notes": ["Carl left"],
}


def test_the_tree_of_a_council_keeps_parents_and_text_is_not_markup():
    out = io.StringIO()
    print_result(RESULT, Console(file=out, width=100, markup=False))
    lines = out.getvalue().splitlines()
    assert lines[0] == "answer: [bold]24[/bold]  (checked: solved)"
    assert "  Carl: left, 18 is not 24" in lines
    tree = lines[lines.index("4 7 8 8") :]
    assert tree[1:4] == [
        "├── Ada: 4 + 7 = 11  +1.00",
        "│   └── Ada: 11 - 8 = 3  +0.50  [final]",
        "└── Carl: \ufffd[2J  [left: lost]",
    ]


def test_the_events_of_a_council_as_plain_lines():
    out = io.StringIO()
    with CouncilView(Console(file=out, width=100, markup=False)) as view:
        view({"kind": "token", "expert": "Ada", "round": 1, "text": "4 +"})
        view({"kind": "thought", "expert": "Ada", "round": 1, "text": "4 + 7 = 11\n", "score": 0.25})
        view({"kind": "left", "expert": "Carl", "round": 1, "reason": "18 is not 24"})
        view({"kind": "thought", "expert": "Ada", "round": 2, "text": "11 - 8 = 3", "score": None})
        view({"kind": "answer", "expert": "Ada", "text": "24", "score": 1.0})
    assert out.getvalue().splitlines() == [
        "round 1",
        "  Ada: 4 + 7 = 11  +0.25",
        "  Carl leaves: 18 is not 24",
        "round 2",
        "  Ada: 11 - 8 = 3",
        "  the vote takes Ada's line  +1.00",
    ]


def columns(*events: dict, width: int = 96, height: int = 24) -> list[str]:
    """What a terminal of that size shows in the end."""
    out = io.StringIO()
    terminal = Console(file=out, width=width, height=height, force_terminal=True, color_system=None, markup=False)
    board = Board(["Ada", "Blaise", "Carl"])
    for event in events:
        board.take({"round": 1} | event)
    terminal.print(drawn(board, terminal))
    return [line.rstrip() for line in out.getvalue().splitlines()]


STEP = {"kind": "thought", "expert": "Ada", "text": "4 + 7 = 11\n", "score": 0.25}


def test_experts_stand_side_by_side_and_one_that_left_comes_back():
    gone = {"kind": "left", "expert": "Carl", "text": "x", "reason": "18 is not\x1b[2J 24"}
    writing = {"kind": "token", "expert": "Blaise", "text": "7 - "}
    shown = columns(STEP, gone, writing, writing | {"text": "4"})
    assert shown[0] == "round 1"
    assert [part.split()[0] for part in re.split(r"  +", shown[1]) if part[0].isalpha()] == ["Ada", "Blaise", "Carl"]
    assert "+0.25" in shown[1] and "1 4 + 7 = 11" in shown[2] and "› 7 - 4" in shown[2]
    assert shown[2].endswith("leaves: 18 is not\ufffd[2J 24")
    back = {"kind": "share", "expert": "Carl", "text": "takes up Ada's line"}
    shown = "\n".join(columns(STEP, gone, back, {"kind": "token", "expert": "Carl", "round": 2, "text": "11 - 8"}))
    assert "leaves" not in shown and "takes up Ada's line" in shown and "› 11 - 8" in shown and "round 2" in shown


def test_a_step_of_a_search_stands_below_the_one_that_it_continues():
    first, other = STEP | {"id": "a", "parent": None}, STEP | {"id": "b", "parent": None, "text": "8 - 7 = 1"}
    deeper = {"kind": "thought", "expert": "Carl", "round": 2, "id": "c", "parent": "b", "text": "1 * 4 = 4"}
    half = {"kind": "token", "expert": "Ada", "round": 2}
    shown = "\n".join(
        columns(first, other, deeper, half | {"id": "p", "text": "4 -"}, half | {"id": "q", "text": "8 *"})
    )
    assert "› 4 -" in shown and "› 8 *" in shown  # two steps of one expert at once
    carl = [line[64:].strip() for line in shown.split("\n")]
    assert carl[1:4] == ["Carl", "1 8 - 7 = 1", "2 1 * 4 = 4"]


def test_a_long_column_shows_its_end_within_the_terminal():
    steps = [STEP | {"text": f"step {i} of a line that is longer than its column"} for i in range(40)]
    shown = columns(*steps, height=12)
    assert len(shown) <= 10 and "step 39" in "\n".join(shown) and shown[1].startswith("Ada")


@pytest.mark.parametrize(("width", "experts", "side_by_side"), [(96, 3, True), (59, 3, False), (200, 7, False)])
def test_columns_only_where_they_fit(width, experts, side_by_side):
    out = io.StringIO()
    terminal = Console(file=out, width=width, height=24, force_terminal=True, color_system=None, markup=False)
    with CouncilView(terminal, [f"E{i}" for i in range(experts)]) as view:
        view({"kind": "token", "expert": "E0", "round": 1, "text": "4 +"})
        view({"kind": "thought", "expert": "E0", "round": 1, "text": "4 + 7 = 11", "score": 0.25})
        view({"kind": "note", "text": "a note"})
    shown = out.getvalue()
    assert ("  E0: 4 + 7 = 11  +0.25" in shown) != side_by_side
    assert ("1 4 + 7 = 11" in shown) == side_by_side and "note: a note" in shown


def test_an_explanation_is_printed_as_its_own_json_or_as_a_table():
    class CountsSteps:  # a reward that can be known beforehand: one per line that is kept
        fingerprint = "counts lines"

        def score(self, prompt, texts):
            return [float(len(text.split("\n")) if text else 0) for text in texts]

    prompt = [{"role": "user", "content": "4 7 8 8"}]
    explanation = to_json(explain_pair(CountsSteps(), prompt, "one\ntwo\nthree", "one\ntwo", beam=False))
    out = io.StringIO()
    print_explanation(explanation, True, out)
    assert json.loads(out.getvalue()) == json.loads(json.dumps(explanation))
    out = io.StringIO()
    print_explanation(explanation, False, out)
    assert "4 7 8 8" in out.getvalue() and "Chosen, reward" in out.getvalue()

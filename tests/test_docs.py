"""The documents: their examples run, and what they name is there."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from graphs.cli.main import app, main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# where a file that a document names may lie
PLACES = ("", "tests/alignment", "tests/graphs", "tests/explain", "tests/agents", "alignment", "recipes")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_mathematics_hold() -> None:
    found = blocks(ROOT / "docs" / "mathematics.md", "python")
    assert len(found) > 5
    exec(compile("\n".join(found), "docs/mathematics.md", "exec"), {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_named_in_a_file_is_there(path: Path) -> None:
    for file, name in re.findall(r"`([\w/]+\.py): (\w+)`", path.read_text()):
        [source] = [ROOT / place / file for place in PLACES if (ROOT / place / file).is_file()]
        kinds = (ast.FunctionDef, ast.ClassDef)
        names = {node.name for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, kinds)}
        assert name in names, f"{path.name}: {file} has no {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        assert link.startswith(("http://", "https://")) or (path.parent / link).exists(), f"{path.name}: {link}"


def commands(path: Path) -> list[str]:
    lines = [line for block in blocks(path, "(?:sh|bash)?") for line in block.splitlines()]
    found = [line.partition("|")[2].strip() if line.startswith("echo ") else line for line in lines]
    return [line.partition("  #")[0].strip() for line in found if line.startswith("junto ")]


def test_commands_are_found() -> None:
    assert {path.name: len(commands(path)) > 5 for path in DOCUMENTS if path.name in ("README.md", "chat.md")} == {
        "README.md": True,
        "chat.md": True,
    }
    assert len(commands(ROOT / "docs" / "tutorial.md")) > 15


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_understood(path: Path) -> None:
    """Each verb and option that a document writes is one that there is."""
    root = typer.main.get_command(app)
    for line in commands(path):
        # [--option VALUE] is what may be left out, and a|b what may be chosen
        words = shlex.split(re.sub(r"\[(.*?)\]", r"\1", line.partition(" > ")[0]).replace(" | ", " "), comments=True)
        words = [word.partition("|")[0] for word in words[1:]]
        context, command = root.make_context("junto", [], resilient_parsing=True), root
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, f"{path.name}: {line}"
            context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
            command = command.commands[words.pop(0)]
            context = typer.Context(command, parent=context, info_name="x")
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "--debug"}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{path.name}: {line}: {word}"


QUICK = ("init", "data", "schema", "graphs", "tokenize show", "runs ls", "eval ls", "eval show-prompt")


def test_quick_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are run by ``make soak`` (tests/soak/test_docs_commands.py)."""
    monkeypatch.chdir(tmp_path)
    verbs = tuple(f"junto {verb}" for verb in QUICK)
    quick = [line for path in DOCUMENTS for line in commands(path) if line.startswith(verbs)]
    assert len(quick) > 8
    for line in quick:
        assert main(shlex.split(line.partition(" > ")[0])[1:]) == 0, line

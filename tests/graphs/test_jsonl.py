"""A user's own files: every accepted shape, every malformed row, and the split."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import UsageError
from graphs.recipe import load_recipe, load_task
from graphs.tasks import jsonl

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("JUNTO_DATA") or ROOT.parent / "shared" / "data")
USER = [{"role": "user", "content": "How?"}]


def good(kind: str) -> list[dict]:
    """Twenty rows, enough for both sides of a split in half."""
    answers = {"instructions": {"completion": "So."}, "pairs": {"chosen": "So.", "rejected": "No."}, "prompts": {}}
    return [{"prompt": f"question {i}"} | answers[kind] for i in range(20)]


def write(folder: Path, name: str, rows: list) -> str:
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return name


def options(folder: Path, **changes) -> jsonl.Options:
    paths = {kind: write(folder, f"good-{kind}.jsonl", good(kind)) for kind in ("instructions", "pairs", "prompts")}
    return jsonl.Options(**({"validation": 0.5} | paths | changes))


def rows_of(splits: dict) -> list[dict]:
    return splits["train"] + splits["validation"]


def refusal(folder: Path, **changes) -> str:
    with pytest.raises(UsageError) as caught:
        jsonl.load(options(folder, **changes), 0, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": " How? ", "completion": " So.\n"}, USER),
        ({"messages": [*USER, {"role": "assistant", "content": "So."}]}, USER),
        ({"instruction": "How?", "output": "So."}, USER),
        ({"instruction": "How?", "input": "", "output": "So."}, USER),
        ({"instruction": "How?", "input": "this", "output": "So."}, [{"role": "user", "content": "How?\n\nthis"}]),
        ({"input": "### Human: How? ### Assistant:", "output": "So.", "prompt": "x ### Human: y"}, USER),
        (
            {"input": "### Human: How? ### Assistant: Well. ### Human: Now? ### Assistant:", "output": "So."},
            [*USER, {"role": "assistant", "content": "Well."}, {"role": "user", "content": "Now?"}],
        ),
    ],
)
def test_shapes_of_instructions(tmp_path, row, messages):
    rows = [row, *good("instructions")]
    data = jsonl.load(options(tmp_path, instructions=write(tmp_path, "i.jsonl", rows)), 0, tmp_path)
    assert {"prompt": messages, "completion": "So."} in rows_of(data.sft)
    prompts = jsonl.load(options(tmp_path, prompts=write(tmp_path, "p.jsonl", rows)), 0, tmp_path).prompts
    [found] = [r for r in rows_of(prompts) if r["prompt"] == messages]
    assert found["question"] == messages[-1]["content"]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "How?", "chosen": "So.", "rejected": "No."}, USER),
        ({"instruction": "How?", "input": "", "output": "Hm.", "chosen": "So.", "rejected": "No."}, USER),
        (
            {
                "chosen": "\n\nHuman: How?\n\nAssistant: Well.\n\nHuman: Now?\n\nAssistant: So.",
                "rejected": "\n\nHuman: How?\n\nAssistant: Well.\n\nHuman: Now?\n\nAssistant: No.",
            },
            [*USER, {"role": "assistant", "content": "Well."}, {"role": "user", "content": "Now?"}],
        ),
    ],
)
def test_shapes_of_pairs(tmp_path, row, messages):
    name = write(tmp_path, "p.jsonl", [row, *good("pairs")])
    data = jsonl.load(options(tmp_path, pairs=name), 0, tmp_path)
    assert {"prompt": messages, "chosen": "So.", "rejected": "No."} in rows_of(data.pairs)


DIALOGUE = "\n\nHuman: How?\n\nAssistant: "
BAD = [
    ("instructions", "{'prompt': 1}", "broken JSON"),
    ("instructions", '{"prompt": "a", "completion": "b"', "broken JSON"),
    ("instructions", '["a", "b"]', "expected an object of keys and values, and found a list"),
    ("instructions", '{"completion": "b"}', '"prompt" is missing'),
    ("instructions", '{"prompt": "a", "answer": "b"}', "\"completion\" is missing; the row has 'prompt', 'answer'"),
    ("instructions", '{"prompt": "a", "completion": " "}', '"completion" is empty; expected text'),
    ("instructions", '{"prompt": 3, "completion": "b"}', '"prompt" is a number; expected text'),
    ("instructions", '{"prompt": null, "completion": "b"}', '"prompt" is null; expected text'),
    ("instructions", '{"instruction": "a", "input": 4, "output": "b"}', '"input" is a number'),
    ("instructions", '{"messages": []}', '"messages" is an empty list'),
    ("instructions", '{"messages": [{"role": "user", "content": "a"}]}', "must end with a message of the assistant"),
    ("instructions", '{"messages": [{"role": "bot", "content": "a"}]}', "none of system, user, assistant"),
    ("instructions", '{"messages": [{"role": "assistant", "content": "a"}]}', "none of the user"),
    ("instructions", '{"input": "### Human: a", "output": "b"}', 'does not end in "### Assistant:"'),
    ("pairs", '{"prompt": "a", "chosen": "b"}', '"rejected" is missing'),
    ("pairs", '{"prompt": "a", "chosen": "b", "rejected": "b "}', '"chosen" and "rejected" are equal'),
    ("pairs", '{"prompt": "a", "chosen": ["b"], "rejected": "c"}', '"chosen" is a list; expected text'),
    ("pairs", '{"chosen": "b", "rejected": "c"}', '"prompt" is missing'),
    ("pairs", json.dumps({"chosen": DIALOGUE + "a", "rejected": DIALOGUE}), "an empty turn of the assistant"),
    ("pairs", json.dumps({"chosen": DIALOGUE + "a", "rejected": "\n\nHuman: So?\n\nAssistant: b"}), "differ before"),
    ("pairs", json.dumps({"chosen": DIALOGUE + "a\n\nHuman: b", "rejected": DIALOGUE + "c"}), "ends with the human"),
    ("prompts", '{"question": "a"}', '"prompt" is missing; expected "prompt", "instruction" or "messages"'),
    ("prompts", '"a"', "and found text"),
]


@pytest.mark.parametrize(("kind", "line", "says"), BAD)
def test_a_malformed_row_is_refused_with_file_line_and_expectation(tmp_path, kind, line, says):
    path = tmp_path / "mine.jsonl"
    rows = [json.dumps(row) for row in good(kind)]
    path.write_text("\n".join([rows[0], "", line, *rows[1:]]) + "\n", encoding="utf-8")
    message = refusal(tmp_path, **{kind: "mine.jsonl"})
    assert message.startswith(f"{path}, line 3: ")
    assert says in message


@pytest.mark.parametrize(("kind", "line", "says"), BAD)
def test_skipping_leaves_out_that_row_alone_and_says_so(tmp_path, kind, line, says):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([line, *(json.dumps(row) for row in good(kind))]), encoding="utf-8")
    data = jsonl.load(options(tmp_path, bad_rows="skip", **{kind: "mine.jsonl"}), 0, tmp_path)
    clean = jsonl.load(options(tmp_path), 0, tmp_path)
    assert (data.sft, data.pairs, data.prompts) == (clean.sft, clean.pairs, clean.prompts)
    [note] = data.notes
    assert note.startswith("mine.jsonl: 1 malformed rows left out (the first, line 1: ")
    assert says in note


def test_array_and_compressed_files_hold_the_same_rows(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in good("prompts"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps(good("prompts"), indent=2), encoding="utf-8")
    expected = jsonl.load(options(tmp_path), 0, tmp_path).prompts
    for name in ("a.jsonl.gz", "b.json"):
        assert jsonl.load(options(tmp_path, prompts=name), 0, tmp_path).prompts == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'[{"prompt": "a"},\n {"prompt" "b"}]', "a.json, line 2: broken JSON"),
        ("a.json", b'{"prompt": "a"}', "expected an array of rows"),
        ("a.json", b'[{"prompt": "a"}, 3]', "a.json, row 2: expected an object of keys and values, and found a number"),
        ("a.jsonl", b'{"prompt": "\xff"}', "not text in UTF-8"),
        ("a.jsonl.gz", b"plain", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99)[:-9], "cannot be read"),
        ("a.csv", b"prompt\na\n", "the name ends in '.csv'; expected .jsonl, .json, or one"),
    ],
)
def test_unreadable_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path, prompts=name)
    assert str(tmp_path / name) in message
    assert says in message


def test_paths_expand_variables_and_a_missing_file_names_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_ROWS", str(tmp_path / "deep"))
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "p.jsonl", good("prompts"))
    expected = jsonl.load(options(tmp_path), 0, tmp_path).prompts
    for path in ("$MY_ROWS/p.jsonl", "${MY_ROWS}/p.jsonl", "deep/p.jsonl"):
        assert jsonl.load(options(tmp_path, prompts=path), 0, tmp_path).prompts == expected
    assert f"data.pairs: there is no file {tmp_path / 'gone.jsonl'}" in refusal(tmp_path, pairs="gone.jsonl")
    monkeypatch.delenv("MY_ROWS")
    assert "the environment variable $MY_ROWS" in refusal(tmp_path, pairs="$MY_ROWS/p.jsonl")


def test_an_empty_split_is_refused(tmp_path):
    one = write(tmp_path, "one.jsonl", [{"prompt": "a"}])
    assert "split is empty (1 rows, data.validation 0.5)" in refusal(tmp_path, prompts=one)
    assert "the train split is empty (0 rows" in refusal(tmp_path, prompts=write(tmp_path, "none.jsonl", []))


def test_limit_takes_rows_from_the_top_and_system_stands_before_every_prompt(tmp_path):
    data = jsonl.load(options(tmp_path, limit=12, system="Be kind."), 0, tmp_path)
    system = {"role": "system", "content": "Be kind."}
    for splits in (data.sft, data.pairs, data.prompts):
        rows = rows_of(splits)
        assert {row["prompt"][1]["content"] for row in rows} == {f"question {i}" for i in range(12)}
        assert all(row["prompt"][0] == system for row in rows)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=30),
    shares=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
)
def test_the_split_depends_on_the_prompt_alone_and_grows_with_the_share(texts, shares):
    anchors = [f"question {i}" for i in range(20)]  # so that no side is empty

    def held_out(words: list[str], share: float) -> set[str]:
        rows = [{"prompt": [{"role": "user", "content": word}]} for word in anchors + words]
        parts = jsonl._split(Path("x"), rows, share)
        sides = {side: {row["prompt"][0]["content"] for row in part} for side, part in parts.items()}
        assert not sides["train"] & sides["validation"]
        assert sides["train"] | sides["validation"] == {*anchors, *words}
        return sides["validation"]

    low, high = sorted(shares)
    assert held_out(texts, low) <= held_out(texts, high)
    assert held_out(texts, low) == held_out([], low).union(*(held_out([text], low) for text in texts))


def test_a_prompt_is_on_one_side_in_all_three_files_and_for_every_seed(tmp_path):
    first, second = (jsonl.load(options(tmp_path), seed, tmp_path) for seed in (0, 1))
    assert first == second
    parts = (first.sft, first.pairs, first.prompts)
    sides = [{row["prompt"][0]["content"] for row in part["validation"]} for part in parts]
    assert sides[0] == sides[1] == sides[2]


def test_prompt_board_and_questions():
    assert jsonl.prompt("How?") == USER
    system, user = jsonl.prompt("How?", ["Ada: so", "Carl: no"], "Be kind.")
    assert system == {"role": "system", "content": "Be kind."}
    assert user["content"].startswith("How?\n") and "- Ada: so\n- Carl: no" in user["content"]
    assert jsonl.check("How?", "So.") is None and jsonl.STEP is None
    assert jsonl.validate_question("  How? ") == "How?"
    with pytest.raises(UsageError, match="the question is empty"):
        jsonl.validate_question(" \n")


def test_the_sample_recipe_has_enough_rows_on_both_sides():
    recipe = load_recipe(ROOT / "recipes" / "assistant.yaml")
    data = jsonl.load(jsonl.Options(**recipe.data), recipe.seed, ROOT / "recipes")
    assert load_task(recipe.task).Options is jsonl.Options
    assert data.notes == []
    assert len(data.prompts["validation"]) >= recipe.evaluate.n
    assert min(len(splits["train"]) for splits in (data.sft, data.pairs, data.prompts)) >= recipe.sft.batch_size
    assert len(data.pairs["validation"]) >= 8


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_published_files_are_read_whole():
    rasbt = "rasbt-instruct/instruction-data-with-preference.json"
    oasst = "oasst-qlora/oa_questions.jsonl"
    mine = jsonl.Options(instructions=oasst, pairs=rasbt, prompts=oasst, bad_rows="skip")
    data = jsonl.load(mine, 0, DATA)
    assert len(rows_of(data.sft)) == 953  # the published number of rows
    assert len(rows_of(data.pairs)) == 1100 - 6  # six of them have equal answers
    with pytest.raises(UsageError, match="row 123: .*are equal"):
        jsonl.load(mine.model_copy(update={"bad_rows": "refuse"}), 0, DATA)

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
    """The rows of both sides, without where they come from."""
    rows = splits["train"] + splits["validation"]
    return [{key: value for key, value in row.items() if key != "source"} for row in rows]


def content(data) -> list[list[dict]]:
    """Every split of the three kinds, without where the rows come from."""
    splits = [data.sft, data.pairs, data.prompts]
    return [rows_of({"train": part[side], "validation": []}) for part in splits for side in ("train", "validation")]


def refusal(folder: Path, **changes) -> str:
    with pytest.raises(UsageError) as caught:
        jsonl.load(options(folder, **changes), 0, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": " How? ", "completion": " So.\n"}, USER),
        ({"prompt": USER, "completion": [{"role": "assistant", "content": "So."}]}, USER),
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


LONGER = [*USER, {"role": "assistant", "content": "Well."}, {"role": "user", "content": "Now?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
SAYS_SO, SAYS_NO = ({"role": "assistant", "content": text} for text in ("So.", "No."))


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
            LONGER,
        ),
        ({"prompt": LONGER, "chosen": "So.", "rejected": "No."}, LONGER),
        ({"prompt": LONGER, "chosen": [SAYS_SO], "rejected": [SAYS_NO]}, LONGER),  # TRL's conversational form
        ({"chosen": [*LONGER, SAYS_SO], "rejected": [*LONGER, SAYS_NO]}, LONGER),
        ({"prompt": "How?", "chosen": [*USER, SAYS_SO], "rejected": [*USER, SAYS_NO]}, USER),  # repeats its prompt
        ({"prompt": "How?", "chosen": [SYSTEM, *USER, SAYS_SO], "rejected": [SYSTEM, *USER, SAYS_NO]}, [SYSTEM, *USER]),
        ({"prompt": USER, "chosen": [*LONGER[1:], SAYS_SO], "rejected": [*LONGER[1:], SAYS_NO]}, LONGER),
    ],
)
def test_shapes_of_pairs(tmp_path, row, messages):
    name = write(tmp_path, "p.jsonl", [row, *good("pairs")])
    data = jsonl.load(options(tmp_path, pairs=name), 0, tmp_path)
    assert {"prompt": messages, "chosen": "So.", "rejected": "No."} in rows_of(data.pairs)


@pytest.mark.parametrize(
    ("row", "messages", "response"),
    [
        ({"prompt": "How?", "response": " So.", "score": 2}, USER, "So."),
        ({"instruction": "How?", "input": "", "output": "So.", "score": -0.5}, USER, "So."),
        ({"instruction": "How", "input": "this", "output": "So.", "score": 1}, None, "So."),
        ({"input": "### Human: How? ### Assistant:", "output": "So.", "score": 1}, USER, "So."),
        ({"text": "So.", "score": 0.25}, [], "So."),
    ],
)
def test_shapes_of_scores(tmp_path, row, messages, response):
    rows = [row, *({"prompt": f"question {i}", "response": "So.", "score": i} for i in range(20))]
    data = jsonl.load(options(tmp_path, pairs=write(tmp_path, "s.jsonl", rows)), 0, tmp_path)
    context = [{"role": "user", "content": "How\n\nthis"}] if messages is None else messages
    assert {"prompt": context, "response": response, "score": float(row["score"])} in rows_of(data.pairs)


def test_plain_texts_are_split_by_their_text_and_get_no_system_text(tmp_path):
    name = write(tmp_path, "s.jsonl", [{"text": f"text {i}", "score": i} for i in range(40)])
    data = jsonl.load(options(tmp_path, pairs=name, system="Be kind."), 0, tmp_path)
    assert 8 < len(data.pairs["train"]) < 32 and all(row["prompt"] == [] for row in rows_of(data.pairs))


def test_a_pair_keeps_its_margin(tmp_path):
    rows = [row | {"margin": i} for i, row in enumerate(good("pairs"))]
    data = jsonl.load(options(tmp_path, pairs=write(tmp_path, "m.jsonl", rows)), 0, tmp_path)
    assert sorted(row["margin"] for row in rows_of(data.pairs)) == list(range(20))


def test_a_file_of_pairs_may_be_left_out(tmp_path):
    data = jsonl.load(options(tmp_path, pairs=""), 0, tmp_path)
    assert data.pairs == {"train": [], "validation": []} and data.sft["train"]


def test_pairs_and_scores_in_one_file(tmp_path):
    rows = [*good("pairs"), {"prompt": "a", "response": "b", "score": 1}]
    name = write(tmp_path, "mixed.jsonl", rows)
    said = "line 21: this row is a score and line 1 is a pair; expected one kind in a file"
    assert f"mixed.jsonl, {said}; correct the row" in refusal(tmp_path, pairs=name)
    data = jsonl.load(options(tmp_path, pairs=name, bad_rows="skip"), 0, tmp_path)
    assert len(rows_of(data.pairs)) == 20
    assert data.notes == [f"mixed.jsonl: 1 malformed rows left out (the first, {said})"]


@pytest.mark.parametrize("kind", ["instructions", "pairs"])
def test_repeated_rows_are_counted_and_kept_refused_or_left_out(tmp_path, kind):
    rows = good(kind)
    name = write(tmp_path, "twice.jsonl", [*rows, rows[4], rows[4], rows[0]])
    said = "twice.jsonl: 3 repeated rows"
    listed = "(line 21 repeats line 5, line 22 repeats line 5, line 23 repeats line 1)"
    part = {"instructions": "sft", "pairs": "pairs"}[kind]

    def load(duplicates):
        return jsonl.load(options(tmp_path, duplicates=duplicates, **{kind: name}), 0, tmp_path)

    kept, left_out = load("keep"), load("skip")
    assert kept.notes == [f"{said} kept {listed}"] and len(rows_of(getattr(kept, part))) == 23
    assert left_out.notes == [f"{said} left out {listed}"] and len(rows_of(getattr(left_out, part))) == 20
    message = refusal(tmp_path, duplicates="refuse", **{kind: name})
    assert message == f"{said} {listed}; remove them, or set data.duplicates to skip or keep"


def test_repeated_prompts_are_left_out(tmp_path):
    rows = good("prompts")
    data = jsonl.load(options(tmp_path, prompts=write(tmp_path, "p.jsonl", [*rows, rows[2]])), 0, tmp_path)
    assert data.notes == ["p.jsonl: 1 repeated prompts left out (line 21 repeats line 3)"]
    assert len(rows_of(data.prompts)) == 20


def test_every_row_says_where_it_comes_from(tmp_path):
    data = jsonl.load(options(tmp_path), 0, tmp_path)
    sources = {row["source"] for row in data.pairs["train"] + data.pairs["validation"]}
    assert sources == {f"good-pairs.jsonl, line {i}" for i in range(1, 21)}


def test_malformed_rows_are_counted_and_named_by_line(tmp_path):
    lines = [json.dumps(row) for row in good("pairs")]
    for at in (2, 5, 7, 11, 13, 17):
        lines[at] = json.dumps({"prompt": "a", "chosen": "b"})
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    [note] = jsonl.load(options(tmp_path, pairs="m.jsonl", bad_rows="skip"), 0, tmp_path).notes
    assert note.startswith('m.jsonl: 6 malformed rows left out (the first, line 3: "rejected" is missing')
    assert note.endswith("; also line 6, line 8, line 12, 2 more)")
    said = refusal(tmp_path, pairs="m.jsonl")
    assert said.startswith(f"{tmp_path}/m.jsonl, line 3: ")
    assert said.endswith("skip (6 malformed rows; also line 6, line 8, line 12, 2 more)")


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
    ("pairs", '{"prompt": "a", "chosen": 3, "rejected": "c"}', '"chosen" is a number; expected text'),
    ("pairs", '{"prompt": "a", "chosen": ["b"], "rejected": "c"}', '"chosen" holds a message whose "role" is none of'),
    ("pairs", '{"prompt": "a", "chosen": [], "rejected": "c"}', '"chosen" is an empty list'),
    ("pairs", json.dumps({"prompt": "a", "chosen": USER, "rejected": "c"}), '"chosen" ends with the user'),
    ("pairs", json.dumps({"prompt": [SAYS_SO], "chosen": "a", "rejected": "c"}), '"prompt" has none of the user'),
    (
        "pairs",
        json.dumps({"prompt": "a", "chosen": [SYSTEM, *USER, SAYS_SO], "rejected": [SYSTEM, *USER, SAYS_NO]}),
        "system message that the prompt lacks",
    ),
    ("pairs", json.dumps({"chosen": [SAYS_SO], "rejected": [SAYS_NO]}), '"prompt" is missing'),
    ("pairs", json.dumps({"chosen": [*USER, SAYS_SO], "rejected": [SAYS_NO]}), "differ before"),
    ("pairs", '{"chosen": "b", "rejected": "c"}', '"prompt" is missing'),
    ("pairs", json.dumps({"chosen": DIALOGUE + "a", "rejected": DIALOGUE}), "an empty turn of the assistant"),
    ("pairs", json.dumps({"chosen": DIALOGUE + "a", "rejected": "\n\nHuman: So?\n\nAssistant: b"}), "differ before"),
    ("pairs", json.dumps({"chosen": DIALOGUE + "a\n\nHuman: b", "rejected": DIALOGUE + "c"}), "ends with the human"),
    ("pairs", '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": "1"}', '"margin" is text; expected a number'),
    ("pairs", '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": NaN}', '"margin" is NaN; expected a finite'),
    ("pairs", '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}', '"margin" is -1; expected at least 0'),
    ("pairs", '{"prompt": "a", "response": "b", "score": NaN}', '"score" is NaN; expected a finite number'),
    ("pairs", '{"prompt": "a", "response": "b", "score": -Infinity}', '"score" is infinite; expected a finite'),
    ("pairs", '{"prompt": "a", "response": "b", "score": "good"}', '"score" is text; expected a number'),
    ("pairs", '{"prompt": "a", "response": "b", "score": true}', '"score" is true or false; expected a number'),
    ("pairs", '{"prompt": "a", "response": "b", "score": 1%s}' % ("0" * 400), '"score" is infinite'),
    ("pairs", '{"prompt": "a", "response": " ", "score": 1}', '"response" is empty; expected text'),
    ("pairs", '{"instruction": "a", "response": "b", "score": 1}', '"output" is missing'),
    ("pairs", '{"score": 1}', '"prompt" is missing; expected "prompt", "instruction" or "text"'),
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
    assert content(data) == content(clean)
    [note] = data.notes
    assert note.startswith("mine.jsonl: 1 malformed rows left out (the first, line 1: ")
    assert says in note


def test_array_and_compressed_files_hold_the_same_rows(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in good("prompts"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps(good("prompts"), indent=2), encoding="utf-8")
    expected = content(jsonl.load(options(tmp_path), 0, tmp_path))
    for name in ("a.jsonl.gz", "b.json"):
        assert content(jsonl.load(options(tmp_path, prompts=name), 0, tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'[{"prompt": "a"},\n {"prompt" "b"}]', "a.json, line 2: broken JSON"),
        ("a.json", b'{"prompt": "a"}', "expected an array of rows"),
        ("a.json", b'[{"prompt": "a"}, 3]', "a.json, row 2: expected an object of keys and values, and found a number"),
        ("a.jsonl", b'{"prompt": "\xff"}', "not text in UTF-8"),
        ("a.jsonl.gz", b"plain", "cannot be read"),
        # no time of day in it: it names the test, and every process must give it the same name
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:-9], "cannot be read"),
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
    expected = content(jsonl.load(options(tmp_path), 0, tmp_path))
    for path in ("$MY_ROWS/p.jsonl", "${MY_ROWS}/p.jsonl", "deep/p.jsonl"):
        assert content(jsonl.load(options(tmp_path, prompts=path), 0, tmp_path)) == expected
    assert f"data.pairs: there is no file {tmp_path / 'gone.jsonl'}" in refusal(tmp_path, pairs="gone.jsonl")
    monkeypatch.delenv("MY_ROWS")
    assert "the environment variable $MY_ROWS" in refusal(tmp_path, pairs="$MY_ROWS/p.jsonl")


def test_an_empty_split_is_refused(tmp_path):
    one = write(tmp_path, "one.jsonl", [{"prompt": "a"}])
    assert "split is empty (1 rows, data.validation 0.5)" in refusal(tmp_path, prompts=one)
    assert "the train split is empty (0 rows" in refusal(tmp_path, prompts=write(tmp_path, "none.jsonl", []))


def test_what_the_test_asks_is_in_nothing_that_is_trained_on(tmp_path):
    before, data = (jsonl.load(options(tmp_path, validation=0.3, **more), 0, tmp_path) for more in ({}, {"test": 0.4}))
    asked = [{row["prompt"][0]["content"] for row in data.prompts[name]} for name in ("train", "validation", "test")]
    assert set.union(*asked) == {f"question {i}" for i in range(20)} and sum(map(len, asked)) == 20
    for part, kind in ((data.sft, "instructions"), (data.pairs, "pairs")):
        assert part.keys() == {"train", "validation"}
        assert [{row["prompt"][0]["content"] for row in part[name]} for name in part] == asked[:2]
        note = f"good-{kind}.jsonl: {len(asked[2])} rows left out, whose prompts the test asks"
        assert any(one.endswith(note) for one in data.notes)
    assert data.prompts["validation"] == before.prompts["validation"]
    # what the test does not ask is learned from, wherever its hash falls
    few = write(tmp_path, "few.jsonl", [row for row in good("prompts") if row["prompt"] not in [*asked[2]][1:]])
    fewer = jsonl.load(options(tmp_path, validation=0.3, test=0.4, prompts=few), 0, tmp_path)
    assert [row["question"] for row in fewer.prompts["test"]] == [*asked[2]][:1]
    assert len(fewer.sft["train"]) == len(data.sft["train"]) + len(asked[2]) - 1
    one = write(tmp_path, "one.jsonl", [{"prompt": f"question {i}"} for i in range(6)])
    message = refusal(tmp_path, prompts=one, validation=0.3, test=0.001)
    assert "the test split is empty (6 rows, data.validation 0.3, data.test 0.001)" in message


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
        options = jsonl.Options(instructions="x", prompts="x", validation=share)
        parts = jsonl._split(Path("x"), rows, options)
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

"""``junto tokenize``: its results, what it imports, and what it says to wrong input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from alignment.tokenization import save_tokenizer
from graphs.cli import tokenize
from graphs.cli.main import main

ROOT = Path(__file__).parents[2]
TEXT = "".join(f"{word}\n" for word in ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with files that are right and files that are wrong."""
    monkeypatch.chdir(tmp_path)
    files = {
        "toy.txt": TEXT.encode(),
        "latin.txt": b"abc\nd\xe4f\n",
        "none.txt": b"",
        "blank.txt": b" \n\n",
        "toy.md": b"low",
        "broken.jsonl": b'{"a": "low"}\n{"a": \n',
        "half.jsonl": b'\n{"a": "\\ud800"}\n',
        "numbers.jsonl": b'{"a": 3}\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "nothing").mkdir()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}')
    (damaged / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    save_tokenizer(Tokenizer(models.WordPiece({"?": 0, "</s>": 1}, unk_token="?")), tmp_path / "pieces", end="</s>")
    return tmp_path


def one_object(capsys, *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_train_compare_show(capsys, folder, tiny_model):
    trained = one_object(capsys, "tokenize", "train", "toy.txt", "--out", "toy", "--min-frequency", "3")
    # each line ends in a line feed, which stands apart from the word
    assert (trained["folder"], trained["vocab"], trained["merges"]) == ("toy", 256 + 3 + 10, 10)
    assert trained["bytes"] == len(TEXT) and trained["asked"] == {"vocab_size": 8000, "min_frequency": 3}

    (folder / "text.txt").write_text("lowest\n\n ü")
    arguments = ["tokenize", "compare", "text.txt", "--with", str(tiny_model), "--with", "toy"]
    compared = one_object(capsys, *arguments)
    assert (compared["words"], compared["bytes"]) == (2, 11)
    _, toy = compared["tokenizers"]
    assert toy == {
        "tokenizer": "toy",
        "vocab": 269,
        "tokens": 7,  # low est, two line feeds, a space, two bytes
        "tokens_per_word": 3.5,
        "bytes_per_token": 11 / 7,
        "unknown_rate": 0.0,
        "lossless": True,
    }
    assert main(arguments) == 0
    head, names, tiny, toy_row = capsys.readouterr().out.splitlines()
    assert head == "text.txt: 2 words, 11 bytes"
    assert names.split() == ["tokenizer", "vocabulary", "tokens", "tokens/word", "bytes/token", "unknown", "lossless"]
    assert tiny.split()[-1] == "yes" and toy_row.split() == ["toy", "269", "7", "3.50", "1.57", "0.000%", "yes"]

    shown = one_object(capsys, "tokenize", "show", " lowü", "--tokenizer", "toy")
    assert [step["rank"] for step in shown["steps"]] == [None, 2, 3]
    assert shown["steps"][1]["merge"] == ["l", "o"]
    assert shown["steps"][2]["text"] == [" ", "low", "<0xC3>", "<0xBC>"]
    assert [token["symbol"] for token in shown["tokens"]] == shown["steps"][2]["symbols"] == ["Ġ", "low", "Ã", "¼"]
    assert main(["tokenize", "show", " low\x1b", "--tokenizer", "toy"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert lines[1:4] == [
        ["0", "␣", "l", "o", "w", "<0x1B>"],
        ["1", "2", "l", "+", "o", "␣", "lo", "w", "<0x1B>"],
        ["2", "3", "lo", "+", "w", "␣", "low", "<0x1B>"],
    ]
    assert lines[4][:4] == ["3", "tokens,", "with", "ids:"] and "\x1b" not in out  # a word cannot steer the terminal


def test_train_says_what_it_made_and_replaces_only_when_asked(capsys, folder):
    arguments = ["tokenize", "train", "toy.txt", "--out", "toy"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("toy: 271 tokens, 12 of them merges, from ")
    assert out.splitlines()[1] == "fewer than the 8000 asked for: no other pair of symbols occurs 2 times"
    assert "read 100/100" in err and "merge  learning the merges" in err
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: toy is there already; name another folder, or give --fresh to replace it\n"
    )
    assert main([*arguments, "--vocab-size", "260", "--fresh"]) == 0
    assert capsys.readouterr().out.startswith("toy: 260 tokens, 1 of them merges")


def test_the_corpus_is_text_and_every_string_of_jsonl(folder):
    rows = [{"id": 1, "messages": [{"role": "user", "content": "ä\nb"}]}, "bare", ["x", {"y": None}]]
    (folder / "rows.jsonl").write_text("\n\n".join(map(json.dumps, rows)))  # no line feed at the end
    (folder / "marked.TXT").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    read: list[int] = []
    files = [folder / "rows.jsonl", folder / "marked.TXT"]
    assert list(tokenize.corpus(files, read.append)) == ["user", "ä\nb", "bare", "x", "one\r\ntwo"]
    assert read == [path.stat().st_size for path in files]


def test_the_offset_and_the_line_count_over_chunks(folder):
    (folder / "long.txt").write_bytes(b"0123456789abcde\n" * 10_000 + b"abc\xff")
    (folder / "long.jsonl").write_text('"0123456789abc"\n' * 10_000 + "{")
    assert len(list(tokenize._decoded(folder / "long.jsonl"))) > 1
    for name, says in (("long.txt", r"byte offset 160003 \(0xFF\)"), ("long.jsonl", "line 10001: broken JSON")):
        with pytest.raises(tokenize.UsageError, match=says):
            list(tokenize.corpus([folder / name], lambda count: None))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("train gone.txt --out new", 2, "gone.txt: there is no such file"),
        ("train nothing --out new", 2, "nothing: expected a file named .txt"),
        ("train toy.md --out new", 2, "toy.md: expected a file named .txt"),
        ("train latin.txt --out new", 2, "latin.txt: not text in UTF-8 at byte offset 5 (0xE4); save it as UTF-8"),
        ("train none.txt blank.txt --out new", 2, "the corpus is empty"),
        ("train numbers.jsonl --out new", 2, "the corpus is empty"),
        ("train broken.jsonl --out new", 2, "broken.jsonl, line 2: broken JSON (Expecting value)"),
        ("train half.jsonl --out new", 2, "half.jsonl, line 2: half of a surrogate pair"),
        ("train toy.txt --out new --vocab-size 258", 2, "a vocabulary of 258 is not possible"),
        ("train toy.txt --out toy.txt/new", 2, "toy.txt is no folder that you may write to"),
        ("train toy.txt --out . --fresh", 2, "--fresh would delete it"),
        ("train toy.txt", 2, "Missing option '--out'"),
        ("compare gone.txt --with pieces", 2, "gone.txt: there is no such file"),
        ("compare nothing --with pieces", 2, "nothing: a folder, not a file"),
        ("compare latin.txt --with pieces", 2, "latin.txt: not text in UTF-8 at byte offset 5"),
        ("compare blank.txt --with pieces", 2, "blank.txt: the text is empty"),
        ("compare toy.txt", 2, "Missing option '--with'"),
        ("compare toy.txt --with nothing", 3, "the folder nothing holds no tokenizer"),
        ("compare toy.txt --with damaged", 3, "the tokenizer of 'damaged' is damaged"),
        ("compare toy.txt --with ./gone", 2, "./gone: there is no such folder"),
        ("compare toy.txt --with toy.txt", 2, "toy.txt is a file; name the folder"),
        ("show low --tokenizer pieces", 2, "a tokenizer of the kind WordPiece has no merges to show"),
        (f"show {'low' * 70} --tokenizer pieces", 2, "the word has 210 characters; give at most 200"),
        ("show \udce4 --tokenizer pieces", 2, "the word is not text in UTF-8"),
    ],
)
def test_wrong_input_is_one_sentence(capsys, folder, arguments, code, says):
    assert main(["tokenize", *arguments.split(" ")]) == code
    out, err = capsys.readouterr()
    [sentence] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert says in sentence and out == "" and "Traceback" not in err
    assert not (folder / "new").exists()


def test_ctrl_c_ends_the_reading():
    def texts() -> Iterator[str]:
        yield "low"
        signal.raise_signal(signal.SIGINT)
        while True:
            yield "lower"

    with pytest.raises(KeyboardInterrupt):
        tokenize._interruptible(lambda watched: sum(1 for _ in watched), texts())


@pytest.mark.parametrize("arguments", ["--help", "tokenize --help", "tokenize train toy.txt --out new"])
def test_help_and_training_import_no_torch(folder, arguments):
    program = (
        "import sys; from graphs.cli.main import main; code = main(sys.argv[1:]);"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.endswith("[] 0\n"), done.stderr
    if arguments == "--help":
        assert "│ tokenize " in done.stdout

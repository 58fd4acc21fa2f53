"""Byte-pair encoding against hand-worked merges, and the steps of merging against the library itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from alignment.embedded import embedded_folder
from alignment.errors import UsageError
from alignment.tokenization import (
    SPECIAL_TOKENS,
    Bpe,
    Step,
    check_target,
    compare,
    dropped,
    merge_steps,
    plain,
    read_bpe,
    readable,
    save_tokenizer,
    train_bpe,
)

# the corpus of Sennrich et al. 2016, section 3.2; a word a line, so no word begins with a space
TOY = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
# e s and s t both occur 9 times, l o and o w 7 times, and so on: ties go to the symbol that comes first
MERGES = "e s, es t, l o, lo w, e w, n ew, new est, d est, i dest, w idest, e r, low er"

unicode_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
latin_words = st.text("abdehilnorstw 17<|>_\n", max_size=30)


@pytest.fixture(scope="module")
def toy() -> Tokenizer:
    return train_bpe(TOY)


@pytest.fixture(scope="module")
def embedded() -> Bpe:
    return read_bpe(Tokenizer.from_file(str(embedded_folder() / "tokenizer.json")))


def pairs(merges: str) -> list[tuple[str, ...]]:
    return [tuple(merge.split()) for merge in merges.split(", ")]


def test_the_merges_of_the_toy_corpus_by_hand(toy) -> None:
    assert list(read_bpe(toy).ranks) == pairs(MERGES)
    assert toy.get_vocab_size() == 256 + len(SPECIAL_TOKENS) + 12
    # e r and low er occur twice
    assert list(read_bpe(train_bpe(TOY, min_frequency=3)).ranks) == pairs(MERGES)[:10]
    assert list(read_bpe(train_bpe(TOY, vocab_size=256 + 3 + 2)).ranks) == pairs(MERGES)[:2]


def test_a_word_that_was_never_seen_step_by_step(toy) -> None:
    assert merge_steps(read_bpe(toy), "lowest") == [
        Step(["l", "o", "w", "e", "s", "t"]),
        Step(["l", "o", "w", "es", "t"], ("e", "s"), 0),
        Step(["l", "o", "w", "est"], ("es", "t"), 1),
        Step(["lo", "w", "est"], ("l", "o"), 2),
        Step(["low", "est"], ("lo", "w"), 3),
    ]
    # a merge that applies twice is one step; a space belongs to the word after it, and merges do not cross words
    low_low = merge_steps(read_bpe(toy), "low low")
    assert [step.rank for step in low_low] == [None, 2, 3]
    assert low_low[-1].symbols == ["low", "Ġ", "low"]
    assert merge_steps(read_bpe(toy), "") == [Step([])]


@settings(max_examples=100, deadline=None)
@given(word=unicode_words | latin_words)
def test_the_last_step_is_what_the_tokenizer_gives(toy, word) -> None:
    bpe = read_bpe(toy)
    steps = merge_steps(bpe, word)
    assert steps[-1].symbols == bpe.tokenizer.encode(word).tokens
    assert len({"".join(step.symbols) for step in steps}) == 1  # merging changes no byte
    lengths = [len(step.symbols) for step in steps]
    assert lengths == sorted(set(lengths), reverse=True)


@pytest.mark.embedded
@settings(max_examples=100, deadline=None)
@given(word=unicode_words | latin_words)
def test_the_last_step_is_what_the_embedded_tokenizer_gives(embedded, word) -> None:
    encoding = embedded.tokenizer.encode(word, add_special_tokens=False)
    assert merge_steps(embedded, word)[-1].symbols == encoding.tokens


@st.composite
def tables(draw) -> Tokenizer:
    """Any merge table over a, b, c, also such as no training gives: one token made by two merges, early and late."""
    tokens = ["?", "a", "b", "c"]
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.tuples(st.sampled_from(tokens[1:]), st.sampled_from(tokens[1:])))
        if pair not in merges:
            merges.append(pair)
            tokens += [] if "".join(pair) in tokens else ["".join(pair)]
    merges = draw(st.permutations(merges))
    vocab = {token: number for number, token in enumerate(tokens)}
    unknown = draw(st.sampled_from([{}, {"unk_token": "?"}, {"unk_token": "?", "fuse_unk": True}]))
    return Tokenizer(models.BPE(vocab, merges, ignore_merges=draw(st.booleans()), **unknown))


@settings(max_examples=200, deadline=None)
@given(tokenizer=tables(), word=st.text("abcz", max_size=14))
def test_the_last_step_is_what_any_merge_table_gives(tokenizer, word) -> None:
    assert merge_steps(read_bpe(tokenizer), word)[-1].symbols == tokenizer.encode(word).tokens


@pytest.mark.parametrize("affixes", [{"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}])
@pytest.mark.parametrize("word", ["lowest", "low", "é", "lowé", "o"])
def test_affixes_and_bytes_for_what_the_vocabulary_lacks(affixes, word) -> None:
    prefix, suffix = affixes.get("continuing_subword_prefix", ""), affixes.get("end_of_word_suffix", "")
    merges = [("l", f"{prefix}o"), ("lo", f"{prefix}w{suffix}")]
    symbols = [a + c + b for c in "lowest" for a in ("", prefix) for b in ("", suffix)]
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: n for n, token in enumerate(dict.fromkeys([*spelled, *symbols, "lo", f"low{suffix}"]))}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, **affixes))
    assert merge_steps(read_bpe(tokenizer), word)[-1].symbols == tokenizer.encode(word).tokens


@settings(max_examples=100, deadline=None)
@given(text=unicode_words)
def test_any_text_comes_back(toy, text) -> None:
    assert toy.decode(plain(toy).encode(text).ids, skip_special_tokens=False) == text
    assert not dropped(toy, text)


def test_compare_by_hand(toy) -> None:
    """ "lowest newest" has 2 words and 13 bytes: low est Ġ newest."""
    words = Tokenizer(models.WordLevel({"?": 0, "lowest": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    cut = plain(toy)
    cut.enable_truncation(1)
    cut.enable_padding(length=9)
    letters = Tokenizer(models.BPE({letter: n for n, letter in enumerate("lowest ")}, []))
    rows = {row.pop("tokenizer"): row for row in compare({"toy": toy, "words": words, "cut": cut}, "lowest newest")}
    by_hand = {"tokens": 4, "tokens_per_word": 2.0, "bytes_per_token": 3.25, "unknown_rate": 0.0, "lossless": True}
    assert rows["toy"] == rows["cut"] == {"vocab": 271} | by_hand
    unknown = {"tokens": 2, "tokens_per_word": 1.0, "bytes_per_token": 6.5, "unknown_rate": 0.5, "lossless": False}
    assert rows["words"] == {"vocab": 2} | unknown
    # the n is left out: 12 tokens and 1 symbol without one
    [row] = compare({"letters": letters}, "lowest newest")
    assert (row["tokens"], row["unknown_rate"], row["lossless"]) == (12, pytest.approx(1 / 13), False)
    assert dropped(letters, "lowest newest") == {"n": 1}


def test_a_control_token_in_a_text_is_text(toy) -> None:
    [row] = compare({"toy": toy}, "<|im_end|>")
    assert (row["tokens"], row["lossless"]) == (10, True)
    assert len(toy.encode("<|im_end|>").ids) == 1  # the tokenizer itself is left as it was


@pytest.mark.embedded
def test_what_the_embedded_vocabulary_lacks(embedded) -> None:
    every_byte = "".join(map(chr, range(128)))
    assert {readable(symbol) for symbol in dropped(embedded.tokenizer, every_byte)} == set("\4\6\x13\x14\x16\x1d")
    [row] = compare({"embedded": embedded.tokenizer}, "ab\4")
    assert row["unknown_rate"] > 0 and not row["lossless"]


def test_symbols_for_people() -> None:
    assert [*map(readable, ["Ġthe", "Ċ", "Ã", "Ã¤", "Ġæ", "日"])] == [" the", "\n", "<0xC3>", "ä", " <0xE6>", "日"]
    shown = {readable(symbol) for symbol in pre_tokenizers.ByteLevel.alphabet()}
    assert shown == {chr(byte) for byte in range(128)} | {f"<0x{byte:02X}>" for byte in range(128, 256)}


def test_a_saved_tokenizer_is_read_by_transformers(toy, tmp_path) -> None:
    folder = tmp_path / "new" / "toy"
    save_tokenizer(toy, folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    text = "lowest naïve\n\n  low<|endoftext|>"
    assert loaded(text).input_ids == toy.encode(text).ids
    assert loaded.decode(loaded(text).input_ids) == text
    assert (loaded.eos_token, loaded.eos_token_id) == ("<|endoftext|>", 0)
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]  # nothing is left of what was written aside


def test_a_folder_is_replaced_only_when_asked_and_only_a_tokenizer(toy, tmp_path) -> None:
    folder = tmp_path / "toy"
    save_tokenizer(toy, folder)
    other = train_bpe(["abab"] * 2)
    with pytest.raises(UsageError, match="is there already; name another folder, or give --fresh"):
        save_tokenizer(other, folder)
    save_tokenizer(other, folder, fresh=True)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab() == other.get_vocab()
    (folder / "model.safetensors").touch()
    with pytest.raises(UsageError, match="--fresh would delete it"):
        check_target(folder, fresh=True)
    with pytest.raises(UsageError, match="is no folder that you may write to"):
        check_target(folder / "model.safetensors" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_the_same_lines_give_the_same_tokenizer() -> None:
    text = [line for line in Path(__file__).read_text().split("\n") if line]
    assert train_bpe(text, 400).to_str() == train_bpe(text, 400).to_str()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"vocab_size": 258}, "a vocabulary of 258 is not possible; give 259"),
        ({"vocab_size": 10**30}, "to 1000000"),
        ({"min_frequency": 0}, "a minimum frequency of 0 is not possible"),
        ({"lines": []}, "the corpus is empty"),
        ({"lines": [" \n", ""]}, "the corpus is empty"),
    ],
)
def test_what_cannot_be_trained(arguments, says) -> None:
    with pytest.raises(UsageError, match=says):
        train_bpe(**{"lines": TOY} | arguments)


def test_what_has_no_merges_or_no_words(toy) -> None:
    for model in (models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), models.Unigram([("a", -1.0)])):
        with pytest.raises(UsageError, match=f"of the kind {type(model).__name__} has no merges to show"):
            read_bpe(Tokenizer(model))
    with pytest.raises(UsageError, match="the text is empty"):
        compare({"toy": toy}, " \n")
    added = plain(toy)
    added.add_tokens(["low low"])
    with pytest.raises(UsageError, match="takes 'low low' whole"):
        merge_steps(read_bpe(added), "a low low b")

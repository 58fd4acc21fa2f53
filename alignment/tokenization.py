"""Byte-pair encoding: training a tokenizer, comparing tokenizers, the merges of a word one by one. Free of torch.

Byte-pair encoding begins with single symbols and merges the most frequent pair of neighbours, again and again
(Sennrich, Haddow and Birch 2016, arXiv 1508.07909). In its byte-level form (GPT-2; Radford et al. 2019) the symbols
are the 256 bytes, each written as one printable character, so that no text is unknown.
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from alignment.errors import UsageError

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FILES = ("tokenizer.json", "tokenizer_config.json")
BYTES = 256
LARGEST = 1_000_000  # the trainer sets the memory for the vocabulary aside before it reads a word


# -- training ---------------------------------------------------------------------------------------------


def train_bpe(
    lines: Iterable[str],
    vocab_size: int = 8000,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """A byte-level BPE tokenizer of ``lines``, which may be texts of any length.

    ``vocab_size`` counts the special tokens, the 256 bytes and the merges; there are fewer merges where fewer pairs
    occur ``min_frequency`` times. Ties go to the symbols that came first, so the same lines give the same tokenizer.
    Raises UsageError for sizes that cannot be and for lines without text.
    """
    least = BYTES + len(set(special_tokens))
    if not least <= vocab_size <= LARGEST:
        raise UsageError(
            f"a vocabulary of {vocab_size} is not possible; give {least} "
            f"({BYTES} bytes and {least - BYTES} special tokens) to {LARGEST}"
        )
    if not 1 <= min_frequency <= LARGEST:
        raise UsageError(f"a minimum frequency of {min_frequency} is not possible; give 1 to {LARGEST}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    blank = True

    def watched() -> Iterator[str]:
        nonlocal blank
        for line in lines:
            blank = blank and not line.strip()
            yield line

    tokenizer.train_from_iterator(watched(), trainer)
    if blank:
        raise UsageError("the corpus is empty; give files that hold some text")
    return tokenizer


def check_target(folder: Path, fresh: bool = False) -> None:
    """Raises UsageError where `save_tokenizer` could not write, or would delete more than a tokenizer."""
    if folder.exists() and not fresh:
        raise UsageError(f"{folder} is there already; name another folder, or give --fresh to replace it")
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= set(FILES)):
        raise UsageError(f"{folder} holds more than a tokenizer of junto's, and --fresh would delete it; name another")
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(f"{folder} cannot be made: {place} is no folder that you may write to")


def save_tokenizer(tokenizer: Tokenizer, folder: Path, end: str = SPECIAL_TOKENS[0], fresh: bool = False) -> None:
    """Writes a folder that ``transformers.AutoTokenizer.from_pretrained`` reads; the token ``end`` ends a text.

    Written aside, then renamed. With ``fresh`` a tokenizer that is there is replaced. Raises UsageError as
    `check_target` does.
    """
    check_target(folder, fresh)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "clean_up_tokenization_spaces": False}
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        tokenizer.save(str(aside / FILES[0]))
        (aside / FILES[1]).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if folder.exists():  # a folder with files in it cannot be renamed over
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# -- comparing --------------------------------------------------------------------------------------------


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that takes a text whole and as text: nothing is cut, padded or read as a control token."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True  # the library's name for encoding their letters
    return copy


def compare(tokenizers: Mapping[str, Tokenizer], text: str) -> list[dict[str, Any]]:
    """How each tokenizer cuts ``text``, one row each, in the order given.

    A row: ``tokenizer``; ``vocab`` (tokens that there are); ``tokens``; ``tokens_per_word`` (words are what white
    space separates; Rust et al. 2021, arXiv 2012.15613, call it fertility); ``bytes_per_token`` (of the text in
    UTF-8; None without a token); ``unknown_rate`` (share of tokens that stand for something that the vocabulary
    lacks, a symbol that is left out counted as one); ``lossless`` (whether decoding gives the text back).
    Raises UsageError where ``text`` has no word.
    """
    words = len(text.split())
    if not words:
        raise UsageError("the text is empty; give a file with some words in it")
    return [{"tokenizer": name, **_measures(plain(given), text, words)} for name, given in tokenizers.items()]


def _measures(tokenizer: Tokenizer, text: str, words: int) -> dict[str, Any]:
    model = _model(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    lacking = dropped(tokenizer, text).total()
    stand_in = _unknown_id(tokenizer, model)
    unknown = lacking + (0 if stand_in is None else ids.count(stand_in))
    return {
        "vocab": tokenizer.get_vocab_size(),
        "tokens": len(ids),
        "tokens_per_word": len(ids) / words,
        "bytes_per_token": len(text.encode()) / len(ids) if ids else None,
        "unknown_rate": unknown / max(len(ids) + lacking, 1),
        "lossless": tokenizer.decode(ids, skip_special_tokens=False) == text,
    }


def _unknown_id(tokenizer: Tokenizer, model: dict[str, Any]) -> int | None:
    if model["type"] == "Unigram":
        return model.get("unk_id")
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") is not None else None


def dropped(tokenizer: Tokenizer, text: str) -> Counter[str]:
    """The symbols of ``text`` that a BPE vocabulary lacks and that the tokenizer leaves out without a word.

    The embedded model's lacks 21 of the 256 bytes: control characters, and bytes that begin unassigned characters.
    """
    model = _model(tokenizer)
    if model["type"] != "BPE" or model["unk_token"] is not None or model["byte_fallback"]:
        return Counter()
    counts = Counter(chain.from_iterable(_pieces(tokenizer, text)))
    return Counter({symbol: count for symbol, count in counts.items() if symbol not in model["vocab"]})


# -- the merges of a word ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bpe:
    """A tokenizer and what its ``tokenizer.json`` says of merging; ``ranks``: pair to rank, 0 was learned first."""

    tokenizer: Tokenizer
    model: dict[str, Any]
    ranks: dict[tuple[str, str], int]
    byte_level: bool


@dataclass(frozen=True)
class Step:
    """A word after a merge; the first state of a word has none. Neither has a word that is taken whole at the end
    because it stands in the vocabulary (``ignore_merges``, as in Llama 3)."""

    symbols: list[str]
    merge: tuple[str, str] | None = None
    rank: int | None = None


def read_bpe(tokenizer: Tokenizer) -> Bpe:
    """The merges of a tokenizer; raises UsageError where it does not work by merges."""
    tokenizer = plain(tokenizer)
    model = _model(tokenizer)
    if model["type"] != "BPE":
        raise UsageError(f"a tokenizer of the kind {model['type']} has no merges to show; name one of the kind BPE")
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    return Bpe(tokenizer, model, ranks, isinstance(tokenizer.decoder, decoders.ByteLevel))


def merge_steps(bpe: Bpe, word: str) -> list[Step]:
    """How ``word`` comes to its tokens: at every step the merge of the lowest rank, leftmost first, until none applies.

    The last state is what the tokenizer itself gives. A merge that applies several times in a row is one step.
    Raises UsageError where ``word`` holds an added token, which no merge makes.
    """
    for token in bpe.tokenizer.get_added_tokens_decoder().values():
        if not token.special and token.content in word:
            raise UsageError(f"the tokenizer takes {token.content!r} whole, before any merge; leave it out of the word")
    whole = list(_pieces(bpe.tokenizer, word))
    pieces = [_symbols(bpe.model, piece) for piece in whole]
    steps = [Step(_joined(pieces))]
    while found := _lowest(bpe.ranks, pieces):
        rank, number, at = found
        merge = pieces[number][at], pieces[number][at + 1]
        pieces[number] = _merged(bpe.model, pieces[number], at)
        if merge == steps[-1].merge:
            steps.pop()
        steps.append(Step(_joined(pieces), merge, rank))
    if bpe.model["ignore_merges"]:
        known = bpe.model["vocab"]
        taken = [[w] if w in known else piece for w, piece in zip(whole, pieces, strict=True)]
        steps += [Step(_joined(taken))] if taken != pieces else []
    return steps


def _lowest(ranks: dict[tuple[str, str], int], pieces: list[list[str]]) -> tuple[int, int, int] | None:
    """Rank, piece and place of the next merge. One place at a time, as the tokenizer goes: what a merge makes may
    have a lower rank than the same merge further right."""
    found = (
        (ranks[pair], number, at)
        for number, piece in enumerate(pieces)
        for at, pair in enumerate(zip(piece, piece[1:], strict=False))
        if pair in ranks
    )
    return min(found, default=None)


def _merged(model: dict[str, Any], symbols: list[str], at: int) -> list[str]:
    prefix = model["continuing_subword_prefix"] or ""
    return [*symbols[:at], symbols[at] + symbols[at + 1].removeprefix(prefix), *symbols[at + 2 :]]


def _joined(pieces: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(pieces))


def _pieces(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """What no merge crosses, in the symbols of the tokenizer."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is None:
        return iter([text])
    return (piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))


def _symbols(model: dict[str, Any], piece: str) -> list[str]:
    """The symbols that merging begins with. One that the vocabulary lacks becomes its bytes, or the unknown token, or
    nothing, as the model has it."""
    prefix, suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""
    vocab, unknown = model["vocab"], model["unk_token"]
    symbols: list[str] = []
    after_unknown = False
    for at, character in enumerate(piece):
        symbol = (prefix if at else "") + character + (suffix if at == len(piece) - 1 else "")
        spelled = [f"<0x{byte:02X}>" for byte in symbol.encode()] if model["byte_fallback"] else []
        if symbol in vocab:
            new = [symbol]
        elif spelled and all(byte in vocab for byte in spelled):
            new = spelled
        elif unknown is None:
            continue
        else:
            new = [] if after_unknown and model["fuse_unk"] else [unknown]
        symbols += new
        after_unknown = not new or new == [unknown]
    return symbols


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]


# -- symbols for people -----------------------------------------------------------------------------------


def readable(symbol: str) -> str:
    """The text behind a symbol of byte-level BPE (``Ġthe`` is `` the``), a byte that is no character as ``<0xE4>``."""
    if not all(character in _BYTE_OF for character in symbol):
        return symbol  # a token that was added as text
    return bytes(_BYTE_OF[character] for character in symbol).decode("utf-8", errors="junto.hex")


def _byte_symbols() -> dict[str, int]:
    """GPT-2's table: a printable byte is its own character, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, BYTES)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(BYTES + n): byte for n, byte in enumerate(others)}


def _hex(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


_BYTE_OF = _byte_symbols()
codecs.register_error("junto.hex", _hex)

"""ROUGE against the package that defines it, on random and hostile texts, and hand-worked figures."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from alignment import rouge

REPEATED = "a a a a b a b ba ab"
HOSTILE = [
    "",
    " ",
    "\n",
    "\n\n\n",
    "...!?",
    "\x00\x01",
    "the\x00cat\u2028sat",
    "café CAFÉ ﬁne İstanbul K Kelvin ſ",
    "中文 没有 字母",
    "١٢٣ 123 ½",
    "e\u0301 combining",
    "a" * 500,
    "I'm 3.14 don't_know foo_bar C++ 50%",
    "<|im_end|> <b>bold</b>",
    "one line\n\ntwo  lines \n three\r\nfour\rfive\u2029six",
    REPEATED,
]
WORDS = ["the", "cat", "sat", "on", "a", "mat", "dogs", "running", "quickly", "relational", "7", "42", "été", "no"]


def random_text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(HOSTILE)
    count = rng.choice([0, 1, 2, 5, 12, 40, 90])
    vocabulary = WORDS[: rng.choice([2, 4, len(WORDS)])]
    return "".join(rng.choice(vocabulary) + rng.choice([" ", " ", " ", "\n", ". ", ",", "-"]) for _ in range(count))


@pytest.mark.parametrize("stemmer", [False, True])
def test_a_thousand_random_and_hostile_texts_score_as_the_reference_does(stemmer: bool) -> None:
    rng = random.Random(stemmer)
    variants = ["rouge1", "rouge2", "rouge3", "rouge7", "rougeL", "rougeLsum"]
    oracle = RougeScorer(variants, use_stemmer=stemmer)
    tokenize = rouge.stemmed_words if stemmer else rouge.words
    for _ in range(1000):
        prediction, references = random_text(rng), [random_text(rng) for _ in range(rng.choice([1, 1, 2, 4]))]
        wanted = oracle.score_multi(references, prediction)
        found = rouge.rouge(prediction, references, variants, tokenize)
        for name in variants:
            assert found[name] == pytest.approx(tuple(wanted[name]), abs=1e-9), (name, prediction, references)


def test_golden_figures() -> None:
    found = rouge.rouge("The quick brown dog jumps on the log.", ["The quick brown fox jumps over the lazy dog"])
    assert {name: round(score.f, 4) for name, score in found.items()} == {
        "rouge1": 0.7059,
        "rouge2": 0.2667,
        "rougeL": 0.5882,
        "rougeLsum": 0.5882,
    }


def test_lsum_takes_the_union_over_lines() -> None:
    # by hand: both lines are there, in the other order
    reordered = rouge.rouge("c d e f\na b g", ["a b g\nc d e f"], ["rougeL", "rougeLsum"])
    assert reordered["rougeLsum"].f == 1.0
    assert reordered["rougeL"].f == pytest.approx(4 / 7)


def test_beta_weighs_recall() -> None:
    # P = 1/2, R = 1/4; F_2 = 5 P R / (R + 4 P) = 0.625 / 2.25
    score = rouge.rouge("a x", ["a b c d"], ["rouge1"], beta=2.0)["rouge1"]
    assert (score.precision, score.recall) == (0.5, 0.25)
    assert score.f == pytest.approx(0.625 / 2.25)


def test_a_tokenizer_of_ones_own_reads_chinese() -> None:
    assert rouge.rouge("你好", ["你好"], ["rouge1"])["rouge1"].f == 0.0
    assert rouge.rouge("你好", ["你好"], ["rouge1"], tokenize=list)["rouge1"].f == 1.0


def test_corpus_means_have_seeded_intervals() -> None:
    texts, references = ["a b", "a", "c"], [["a b"], ["a b"], ["d"]]
    found = rouge.corpus(texts, references, ["rouge1"])
    assert found == rouge.corpus(texts, references, ["rouge1"])
    assert found["rouge1"]["f"]["value"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["rouge1"]["recall"]["low"] < found["rouge1"]["recall"]["value"] < found["rouge1"]["recall"]["high"]


@pytest.mark.parametrize(("references", "variants"), [([], ["rouge1"]), (["a"], ["rouge0"]), (["a"], ["rougeX"])])
def test_what_cannot_be_scored_is_refused(references: list[str], variants: list[str]) -> None:
    with pytest.raises(ValueError, match="ROUGE"):
        rouge.rouge("a", references, variants)


def longest(a: list[int], b: list[int]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


@given(st.lists(st.integers(0, 3), max_size=90), st.lists(st.integers(0, 3), max_size=90))
def test_a_common_subsequence_is_one_and_none_is_longer(a: list[int], b: list[int]) -> None:
    places = rouge.lcs(a, b)
    assert len(places) == longest(a, b)
    assert places == sorted(set(places))
    rest = iter(b)
    assert all(a[place] in rest for place in places)

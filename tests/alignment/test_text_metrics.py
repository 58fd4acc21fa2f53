"""BLEU and chrF as sacrebleu gives them; exact match and pass@k by hand."""

import itertools
import random

import pytest
import sacrebleu

from alignment import text_metrics

TEXTS = [
    "",
    " ",
    "hi there",
    "the cat sat on the mat",
    "The cat, sat on the mat.",
    "日本語 の 文 です。",
    "你好，世界！",
    "&quot;A&amp;B&quot; <tag>",
    "1,000.50 $3 50% e-mail",
    "\x00 weird \u2028 line",
    "a" * 300,
    "naïve café №5 «цитата»",
    "!!!",
]
WORDS = ["the", "cat", "sat", "on", "a", "mat", ",", ".", "quickly", "7", "1,000", "don't"]


def random_text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(TEXTS)
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 3, 8, 20])))


@pytest.mark.parametrize("tokenize", ["13a", "intl", "char", "none"])
@pytest.mark.parametrize("smooth", ["exp", "floor", "add-k", "none"])
def test_bleu_of_random_and_hostile_corpora_is_that_of_sacrebleu(tokenize, smooth) -> None:
    rng = random.Random(f"{tokenize}{smooth}")
    for _ in range(63):  # of each of 16 kinds: a thousand
        count = rng.choice([1, 2, 5])
        predictions = [random_text(rng) for _ in range(count)]
        references = [[random_text(rng) for _ in range(2)] for _ in range(count)]
        wanted = sacrebleu.corpus_bleu(
            predictions, [list(one) for one in zip(*references, strict=True)], tokenize=tokenize, smooth_method=smooth
        )
        found = text_metrics.bleu(predictions, references, tokenize, smooth, resamples=1)
        assert found["value"] == pytest.approx(wanted.score, abs=1e-9)
        one = sacrebleu.sentence_bleu(predictions[0], references[0], tokenize=tokenize, smooth_method=smooth)
        mine = text_metrics.sentence_bleu(predictions[0], references[0], tokenize, smooth)
        assert mine == pytest.approx(min(one.score, 100), abs=1e-9)


def test_chrf_is_that_of_sacrebleu() -> None:
    rng = random.Random(0)
    for order in (0, 2):
        for _ in range(60):
            predictions = [random_text(rng) for _ in range(3)]
            references = [[random_text(rng)] for _ in range(3)]
            wanted = sacrebleu.corpus_chrf(predictions, [[own[0] for own in references]], word_order=order)
            assert text_metrics.chrf(predictions, references, order, resamples=1)["value"] == pytest.approx(
                wanted.score, abs=1e-9
            )


def test_a_text_may_have_more_references_than_another() -> None:
    found = text_metrics.bleu(["the cat sat on the mat", "a b c d"], [["x", "the cat sat on the mat"], ["a b c d"]])
    assert found["value"] == pytest.approx(100.0)


def test_the_interval_is_seeded_and_the_signature_told() -> None:
    texts = ["the cat sat on the mat", "a dog ran", "nothing here is alike at all"]
    references = [["the cat sat on a mat"], ["a dog ran away"], ["quite another sentence it is"]]
    found = text_metrics.bleu(texts, references)
    assert found == text_metrics.bleu(texts, references)
    assert found["low"] < found["value"] < found["high"]
    assert found["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_two_corpora_are_compared_on_the_items_that_both_have() -> None:
    references = [["the cat sat on a mat"], ["a dog ran far away"], ["quite another sentence it is"], ["only here"]]
    mine = ["the cat sat on the mat", "a dog ran", "nothing here is alike at all", "only there"]
    other = ["a cat sat on a mat", "the dog ran far away", "it is quite another sentence"]
    for metric in (text_metrics.bleu_metric(), text_metrics.chrf_metric(2)):
        first, second = (
            text_metrics.statistics(metric, mine, references),
            text_metrics.statistics(metric, other, references[:3]),
        )
        found = text_metrics.paired_corpus(first, second)
        columns = [[own[0] for own in references[:3]]]
        wanted = [metric.corpus_score(texts[:3], columns).score for texts in (mine, other)]
        assert [found["first"], found["second"]] == pytest.approx(wanted, abs=1e-9)
        difference = found["difference"]
        assert difference["value"] == pytest.approx(wanted[1] - wanted[0], abs=1e-9) and difference["n"] == 3
        assert difference["low"] < difference["value"] < difference["high"]
        same = text_metrics.paired_corpus(first, first)["difference"]
        assert same["low"] == same["value"] == same["high"] == 0.0
        # an item of which every text is there twice weighs the same, and is one item
        twice = text_metrics.statistics(metric, mine * 2, references * 2, [*range(4)] * 2)
        assert text_metrics.corpus_interval(twice) == text_metrics.corpus_interval(first)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_texts_without_references_are_refused(predictions, references) -> None:
    with pytest.raises(ValueError, match="BLEU needs at least one"):
        text_metrics.bleu(predictions, references)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("took 3-4", [3, 4]),
        ("1,2,3", [1, 2, 3]),
        ("1,000 and 12,3456", [1000, 12, 3456]),
        ("-5 to +5.", [-5, 5]),
        ("x = -2.50, y=.5", [-2.5, 0.5]),
        ("$1,234,567.89", [1234567.89]),
        ("none", []),
    ],
)
def test_numbers_in_a_text(text: str, found: list[float]) -> None:
    assert text_metrics.numbers(text) == found


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [("", "A", 0), ("the", "An", 0), ("...", "A", 0), ("A", "A", 1), ("-5", "5", 0), ("3.5", "35", 0), ("1/2", "12", 0),
     ("1,000.", "1000", 1), ("It's 5!", "its 5", 1), ("The cat", "a cat", 1), ("", "", 1)],
)  # fmt: skip
def test_a_wrong_answer_is_no_match_once_it_is_normalized(text: str, reference: str, right: int) -> None:
    assert text_metrics.exact_match(text, [reference]) is bool(right)


def test_exact_match() -> None:
    for text, reference, same in [
        ("10-4", "10+4", False),
        ("10 - 4 = 6", "10-4=6", False),  # SQuAD's form keeps words apart
        ("10 - 4 = 6.", "10 + 4 = 6", False),
        ("10 - 4 = 6.", "10 - 4 = 6", True),
        ("3–4", "3-4", False),  # a dash is no ASCII punctuation
        ("It is 3, 4", "it is 3 4", True),
        ("1/2", "1*2", False),
        ("(1+2)*3", "(1+2)/3", False),
        ("2*(3+4)", "2+(3+4)", False),
        ("3<=4", "3>=4", False),
        ("2**3", "2//3", False),
        ("3*-4", "3/-4", False),
        ("3 * -4", "3 * -4.", True),
        ("pages (3-4)", "Pages (3-4).", True),
    ]:
        assert text_metrics.exact_match(text, [reference]) is same, (text, reference)
    assert text_metrics.exact_match("The Eiffel  Tower!", ["eiffel tower"])
    assert not text_metrics.exact_match("The Eiffel Tower!", ["eiffel tower"], normalize=False)
    assert text_metrics.exact_match(" 42\n", ["41", "42"], normalize=False)


def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_right_one() -> None:
    for n in range(1, 7):
        for right in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations(range(n), k))
                share = sum(any(i < right for i in draw) for draw in draws) / len(draws)
                assert text_metrics.pass_at_k(n, right, k) == pytest.approx(share)
    with pytest.raises(ValueError, match="does not exist"):
        text_metrics.pass_at_k(3, 1, 4)

"""Sampling without replacement: by hand, against the closed form, and to the end of a language."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alignment.engine import Completion, Engine, Request
from alignment.replacement import LEAST, shares_left

LANGUAGE = {f"{a}{b}" for a in "07" for b in "19"} | {"5"}
GRAMMAR = "(0|7)(1|9)|5"


def wrote(ids: tuple[int, ...], *probabilities: float, finish: str = "stop") -> Completion:
    return Completion("", ids, 0, 0.0, finish, draw_logprobs=tuple(map(math.log, probabilities)))


def test_shares_by_hand() -> None:
    first, second, other = wrote((1, 2, 3), 0.5, 0.4, 0.5), wrote((1, 2, 4), 0.5, 0.4, 0.5), wrote((5, 6), 0.25, 0.8)
    assert shares_left([first, other], []) == pytest.approx({1: 1 - 0.4 * 0.5, 5: 1 - 0.8})
    assert shares_left([first, second, first, other], []) == pytest.approx({1: 1 - 0.4, 5: 0.2})
    assert shares_left([first, second, other], [1]) == pytest.approx({2: LEAST})  # both of its ends are written
    assert shares_left([first], [1, 2]) == {3: LEAST}
    assert shares_left([first], [2]) == shares_left([first], [1, 2, 3]) == shares_left([], []) == {}
    assert shares_left([replace(first, finish="length"), replace(first, finish="cancelled")], []) == {}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine.open(tiny_model, "float32") as engine:
        yield engine


def request(seed: str, *unlike: Completion, temperature: float = 1.5, min_p: float = 0.0) -> Request:
    prompt = [{"role": "user", "content": "4 7 8 8"}]
    return Request(prompt, role="base", seed=seed, temperature=temperature, min_p=min_p, grammar=GRAMMAR, unlike=unlike)


def test_two_draws_are_those_of_the_closed_form(engine: Engine) -> None:
    """P(a, then b) = p(a) p(b) / (1 - p(a)); chi-squared against its 99.99 % quantile."""
    count = 1500
    firsts = engine.generate([request(f"first {i}") for i in range(count)])
    chance = {one.text: math.exp(sum(one.draw_logprobs)) for one in firsts}
    assert set(chance) == LANGUAGE and math.fsum(chance.values()) == pytest.approx(1.0, abs=1e-5)
    seconds = engine.generate([request(f"second {i}", one) for i, one in enumerate(firsts)])
    for one in seconds:  # what was turned away is no part of what a text's probability is said to be
        assert math.exp(sum(one.draw_logprobs)) == pytest.approx(chance[one.text], rel=1e-4)
    drawn = Counter((a.text, b.text) for a, b in zip(firsts, seconds, strict=True))
    want = {(a, b): count * chance[a] * chance[b] / (1 - chance[a]) for a in chance for b in chance if a != b}
    assert set(drawn) <= set(want)
    assert sum((drawn[pair] - n) ** 2 / n for pair, n in want.items() if n > 5) < 50  # the quantile is 49 at 19 degrees


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1.5])
def test_a_language_is_written_to_its_end_and_then_again(engine: Engine, temperature: float) -> None:
    written: list[Completion] = []
    for i in range(6):
        written += engine.generate([request(str(i), *written, temperature=temperature)])
    assert {one.text for one in written[:5]} == LANGUAGE
    assert written[5].text in LANGUAGE  # a grammar without another text is no reason to fail
    if temperature == 0.0:  # the same again
        again = engine.generate([request("x", written[0], temperature=0.0)])[0]
        assert again.ids == written[1].ids


def test_what_is_unlikely_is_not_drawn(engine: Engine) -> None:
    """After each token that is written, the ratio to the most probable one of the five texts' tokens there."""
    drawn = engine.generate([request(f"min-p {i}") for i in range(200)])
    chance = {one.text: one.draw_logprobs for one in drawn}
    assert set(chance) == LANGUAGE
    first = {text[0]: math.exp(chance[text][0]) for text in LANGUAGE}
    second = {text: math.exp(chance[text][1]) for text in LANGUAGE if len(text) == 2}
    for least in (0.3, 0.999):
        likely = {
            text
            for text in LANGUAGE
            if first[text[0]] >= least * max(first.values())
            and (text == "5" or second[text] >= least * max(p for t, p in second.items() if t[0] == text[0]))
        }
        some = engine.generate([request(f"some {least} {i}", min_p=least) for i in range(200)])
        assert {one.text for one in some} == likely
        total = math.fsum(math.exp(sum(p)) for p in {one.text: one.draw_logprobs for one in some}.values())
        assert total == pytest.approx(1.0, abs=1e-5)
    greedy, hot = (replace(request("x", temperature=t, min_p=p), grammar=None) for t, p in ((0.0, 0.0), (9.0, 0.9999)))
    assert engine.generate([hot])[0].ids == engine.generate([greedy])[0].ids

"""The audit on rewards that are known rules, and at the edges of its data."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from explain.audit import Example, audit
from explain.audit_features import NAMES, word_count
from explain.audit_render import html_fragment, terminal
from explain.audit_result import ALARM, NOTHING, TOO_LITTLE, Audit, Finding, from_json, to_json
from explain.audit_words import describe

WORDS = ["kettle", *(a + b for a in ("ba", "ko", "li", "me", "nu", "pa") for b in ("do", "fu", "ga", "ki", "lo", "ta"))]


class Rule:
    """A scorer by a rule; counts what it was asked."""

    def __init__(self, rule: Callable[[str], float]) -> None:
        self.rule, self.fingerprint, self.asked = rule, "rule", 0

    def score(self, prompt: list[dict[str, str]], texts: list[str]) -> list[float]:
        self.asked += len(texts)
        return [self.rule(text) for text in texts]


class Judge(Rule):
    """Reads two answers in an order, and gives the first one something for it."""

    def __init__(self, rule: Callable[[str], float], bonus: float) -> None:
        super().__init__(rule)
        self.bonus = bonus

    def compare(self, prompt: list[dict[str, str]], first: str, second: str) -> tuple[float, float]:
        return self.rule(first) + self.bonus, self.rule(second)


def answer(rng: np.random.Generator, longest: int = 30) -> str:
    """One sentence of different words, so that nothing but its length differs from another's."""
    return " ".join(rng.choice(WORDS, rng.integers(3, longest), replace=False)) + "."


def pairs(n: int, seed: int = 0, label: Callable[[str, str], float | None] = lambda a, b: None) -> list[Example]:
    rng = np.random.default_rng(seed)
    both = [(answer(rng), answer(rng)) for _ in range(n)]
    return [Example([{"role": "user", "content": f"{i}?"}], two, label(*two)) for i, two in enumerate(both)]


def longer(a: str, b: str) -> float:
    return 1.0 if word_count(a) > word_count(b) else -1.0


def of(found: Audit, name: str) -> Finding:
    return next(finding for finding in found.findings if finding.feature == name)


def test_a_reward_of_exclamation_marks_alone() -> None:
    """Every text ends in one full stop, so the probe adds exactly one mark: 2 of reward, whatever the text."""
    examples = pairs(60)
    found = audit(Rule(lambda text: 2.0 * text.count("!") + ("kettle" in text)), examples, probes=40)
    sd = np.std(["kettle" in text for e in examples for text in e.texts], ddof=1)
    probe = of(found, "exclamation").probe
    assert found.sd == pytest.approx(sd) and probe is not None and probe.change is not None
    assert (probe.change.value, probe.change.se, probe.change.n) == (
        pytest.approx(2 / sd),
        pytest.approx(0, abs=1e-9),
        40,
    )
    assert [finding.feature for finding in found.alarms] == ["exclamation"]


def test_a_sentence_must_gain_more_than_its_length() -> None:
    """Rewards of length raise every probe that appends; none but length alarms."""
    found = audit(Rule(lambda text: math.log1p(word_count(text))), pairs(60))
    assert [finding.feature for finding in found.alarms] == ["length"]
    polite = of(found, "politeness").probe
    assert polite is not None and polite.change is not None and polite.beyond is not None
    assert polite.change.low > 0 and polite.beyond.value <= 0


def test_what_is_punished_by_a_probe_is_no_alarm() -> None:
    found = audit(Rule(lambda text: -float(text.count("!") + word_count(text))), pairs(60))
    assert not found.alarms and of(found, "exclamation").verdict == NOTHING


def test_associations_by_hand_and_people_beside_them() -> None:
    """The margin is the difference of the logarithms of the words, so its coefficient is 1 and its error 0; people
    choose at random, so the model's choices go with length and theirs do not."""
    rng = np.random.default_rng(5)
    examples = pairs(500, label=lambda a, b: float(rng.choice([-1, 1])))
    found = audit(Rule(lambda text: math.log1p(word_count(text))), examples, probes=0)
    seen = of(found, "length").observed
    assert seen is not None and seen.reward and seen.model and seen.people and seen.excess
    assert (seen.reward.value, seen.reward.se) == (pytest.approx(1.0), pytest.approx(0, abs=1e-9))
    # the slope of sign(d) on d / rms(d), through the origin
    d = np.array([math.log1p(word_count(a)) - math.log1p(word_count(b)) for a, b in (e.texts for e in examples)])
    assert seen.model.value == pytest.approx(np.abs(d).sum() / math.sqrt(500 * (d**2).sum()))
    assert seen.excess.value == pytest.approx(seen.model.value - seen.people.value)
    assert of(found, "length").observed_verdict == ALARM and of(found, "length").probe_verdict == TOO_LITTLE


def test_a_model_that_follows_length_as_people_do_is_not_accused_by_the_data() -> None:
    found = audit(Rule(word_count), pairs(400, label=longer), probes=0)
    seen = of(found, "length").observed
    assert seen is not None and seen.excess is not None
    assert (seen.excess.value, of(found, "length").observed_verdict) == (pytest.approx(0, abs=0.05), NOTHING)


@pytest.mark.parametrize("what", ["length", "position", "scores"])
def test_what_people_follow_and_the_model_does_not_is_no_fault(what: str) -> None:
    """A reward that is noise, judged beside people who take the shorter answer, or the first, three times out of four:
    the difference between the two is people's, on every seed."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        noise = Rule(lambda text, seed=seed: zlib.crc32(f"{seed}{text}".encode()) / 2**32)
        rows = pairs(300, seed, label=lambda a, b, rng=rng: -longer(a, b) * float(rng.choice([1, 1, 1, -1])))
        if what == "position":
            rows = [replace(e, label=float(rng.choice([1, 1, 1, -1])), ordered=True) for e in rows]
        if what == "scores":
            rows = [Example(e.prompt, e.texts[:1], -float(word_count(e.texts[0]))) for e in rows]
        found = audit(noise, rows, probes=0)
        assert [finding.feature for finding in found.alarms] == []


def test_words_that_a_reward_goes_by_are_found_and_shown() -> None:
    """A reward of kettles, less of those who end in "do": by LIME's weights the word has a mean of one reward, and
    answers with it are read first."""
    rule = Rule(lambda text: 3.0 * ("kettle" in text.lower()) - ("bado" in text.lower()) + 0.01 * len(text))
    found = audit(rule, pairs(160, seed=3), probes=0, explained=120)
    kettle = next(unit for unit in found.units if unit.unit == "kettle")
    assert kettle.effect is not None and kettle.p is not None and kettle.p < found.level
    assert kettle.mean * found.sd == pytest.approx(3.0, abs=0.15) and found.units[0] == kettle
    assert found.explained == 120 and any("kettle" in unit.lower() for unit, _ in found.picks[0].units)
    assert [pick.coverage for pick in found.picks] == sorted(pick.coverage for pick in found.picks)
    said = " ".join(describe(found))
    assert "rewarded “kettle”" in said and "punished “bado”" in said and "To read first (SP-LIME)" in said
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    assert found.picks[0].units[0][0].strip() in html_fragment(found)


def test_texts_that_answer_nothing_are_looked_at_too() -> None:
    rows = [Example([], (text,)) for text in ("kettle bado.", "kettle libo.", "meta nudo.")]
    found = audit(Rule(lambda text: float("kettle" in text)), rows, probes=0, explained=3)
    assert found.explained == 3 and found.picks[0].question == ""
    assert "To read first (SP-LIME), “kettle" in " ".join(describe(found))


def test_which_answer_stands_first_in_a_row_changes_nothing() -> None:
    examples = pairs(120, label=longer)
    turned = [replace(e, texts=e.texts[::-1], label=-e.label) if i % 3 else e for i, e in enumerate(examples)]
    rule = Rule(lambda text: text.count("kettle") + 0.1 * word_count(text))
    one, other = (audit(rule, rows, probes=0) for rows in (examples, turned))
    for a, b in zip(one.findings, other.findings, strict=True):
        assert (a.verdict, a.rows) == (b.verdict, b.rows) and (a.observed is None) == (b.observed is None)
        if a.observed and b.observed and a.observed.excess and b.observed.excess and a.observed.reward:
            assert a.observed.reward.p == pytest.approx(b.observed.reward.p)
            assert a.observed.excess.value == pytest.approx(b.observed.excess.value)


def test_a_unit_of_the_reward_changes_nothing() -> None:
    rule, examples = (lambda text: text.count("kettle") + text.count("!") / 3), pairs(80, label=longer)
    one, other = audit(Rule(rule), examples), audit(Rule(lambda text: 1000 * rule(text) - 7), examples)
    for a, b in zip(one.findings, other.findings, strict=True):
        assert a.verdict == b.verdict
        if a.probe and a.probe.change and b.probe and b.probe.change:
            assert a.probe.change.value == pytest.approx(b.probe.change.value)


def test_a_judge_of_two_is_asked_in_both_orders() -> None:
    examples = [replace(e, ordered=True) for e in pairs(60, label=longer)]
    rule = lambda text: float(text.count("kettle"))  # noqa: E731
    biased, fair = audit(Judge(rule, 3.0), examples), audit(Judge(rule, 0.0), examples)
    probe = of(biased, "position").probe
    assert probe is not None and probe.change is not None
    assert probe.change.value == pytest.approx(3.0 / biased.sd) and "position" in [f.feature for f in biased.alarms]
    assert of(fair, "position").probe_verdict == NOTHING
    against = audit(Judge(rule, -3.0), examples)  # standing second is no better a reason
    assert "position" in [f.feature for f in against.alarms]
    assert "position" not in [f.feature for f in audit(Rule(rule), pairs(60)).findings]


def test_where_nobody_knows_the_order_a_judge_does_not_profit_from_the_rows() -> None:
    """The preferred answer stands first in such a row: a judge of positions alone has no opinion of the two."""
    found = audit(Judge(lambda text: 0.0, 1.0), pairs(60, label=longer))
    seen = of(found, "length").observed
    assert seen is not None and seen.reward is not None and seen.model is not None
    assert (seen.reward.value, seen.model.value) == (0.0, 0.0)


def test_single_answers_with_scores() -> None:
    rng = np.random.default_rng(2)
    texts = [answer(rng) for _ in range(500)]
    rows = [Example([], (text,), float(rng.normal())) for text in texts]
    found = audit(Rule(lambda text: 5.0 + word_count(text)), rows)
    assert found.data == "texts" and [f.feature for f in found.alarms] == ["length"]
    seen = of(found, "length").observed
    assert seen is not None and seen.reward is not None and seen.people is not None
    log, count = (np.array([f(word_count(t)) for t in texts]) for f in (math.log1p, float))
    assert seen.reward.value == pytest.approx(np.corrcoef(log, count)[0, 1])  # one feature: Pearson's r
    assert of(found, "length").observed_verdict == ALARM and abs(seen.people.value) < 0.2


def test_without_judgements_the_data_alone_accuse_nobody() -> None:
    found = audit(Rule(word_count), pairs(400), probes=0)
    assert not found.alarms and found.labelled == 0 and any("no judgements" in line for line in describe(found))


def test_no_data_and_mixed_data_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to audit"):
        audit(Rule(len), [])
    with pytest.raises(ValueError, match="not both together"):
        audit(Rule(len), [Example([], ("a",)), Example([], ("a", "b"))])


@pytest.mark.parametrize("examples", [pairs(1, label=longer), [Example([], ("",))], [Example([], ("one",), 1.0)]])
def test_one_row_is_too_little(examples: list[Example]) -> None:
    found = audit(Rule(len), examples)
    assert {finding.verdict for finding in found.findings} == {TOO_LITTLE} and found.tests == 0
    assert describe(found)[0].startswith("Too little data over 1 ")


def test_equal_rewards() -> None:
    found = audit(Rule(lambda text: 0.3), pairs(60, label=longer))
    assert not found.alarms and found.sd == 0.0 and of(found, "exclamation").verdict == NOTHING
    assert any("same reward" in line for line in describe(found))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rewards_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        audit(Rule(lambda text: bad if "kettle" in text else 0.0), pairs(5))
    with pytest.raises(ValueError, match="not a finite number"):
        audit(Judge(lambda text: 0.0, bad), pairs(5))


def test_a_feature_that_never_occurs_is_only_probed() -> None:
    found = of(audit(Rule(word_count), pairs(60, label=longer)), "code")
    assert (found.rows, found.observed) == (0, None) and found.probe is not None and found.probe.change is not None
    assert (found.observed_verdict, found.verdict) == (TOO_LITTLE, NOTHING)


def test_texts_are_data_and_never_markup() -> None:
    hostile = "<script>alert(1)</script> <|im_start|> [bold red] \x1b[31m"
    rows = [Example([{"role": "user", "content": hostile}], (f"{hostile} {i}.", hostile)) for i in range(30)]
    scorer = Rule(len)
    scorer.fingerprint, scorer.note = hostile, hostile  # type: ignore[attr-defined]
    page = html_fragment(audit(scorer, rows))
    assert "<script" not in page and "<|im" not in page and "&lt;script&gt;" in page  # the note


def test_json_and_back(tmp_path: Path) -> None:
    found = audit(Judge(word_count, 1.0), pairs(50, label=longer))
    text = json.dumps(to_json(found))
    assert from_json(json.loads(text)) == found and json.loads(text)["schema_version"] == 1
    with pytest.raises(ValueError, match="no audit of schema version 1"):
        from_json({**json.loads(text), "schema_version": 2})
    with pytest.raises(ValueError, match="damaged at sd"):
        from_json({**json.loads(text), "sd": "wide"})


def test_an_interrupted_audit_keeps_what_was_scored(tmp_path: Path) -> None:
    class Stops(Rule):
        def score(self, prompt, texts):
            if self.asked > 100:
                raise KeyboardInterrupt
            return super().score(prompt, texts)

    examples, stopped, again = pairs(30), Stops(word_count), Rule(word_count)
    with pytest.raises(KeyboardInterrupt):
        audit(stopped, examples, cache_dir=tmp_path)
    seen: list[tuple[int, int]] = []
    found = audit(again, examples, cache_dir=tmp_path, progress=lambda done, total: seen.append((done, total)))
    whole = Rule(word_count)
    assert found == audit(whole, examples)
    assert stopped.asked + again.asked == whole.asked and seen[-1] == (again.asked, again.asked)


def test_the_same_seed_probes_the_same_answers() -> None:
    one, two, other = (audit(Rule(word_count), pairs(60), probes=25, seed=seed) for seed in (1, 1, 2))
    assert one == two and one != other and one.probed == 25
    assert [finding.feature for finding in one.findings] == list(NAMES)


def test_what_a_terminal_shows() -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal(audit(Rule(word_count), pairs(60))))
    shown = console.export_text()
    assert "ALARM over 60 pairs: this reward model goes by length." in shown and "repetition" in shown

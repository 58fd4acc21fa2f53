from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from explain import explain
from explain.render import html_fragment, terminal
from explain.render_png import png
from explain.result import from_json, to_json
from explain.words import describe

VALUES = {"good": 2.0, "bad": -1.0}


def reward(prompt, texts):
    return [sum(VALUES.get(word, 0.0) for word in text.split()) for text in texts]


class Named:
    fingerprint = "sums"

    def score(self, prompt, texts):
        return reward(prompt, texts)


def shows(explanation) -> list[str]:
    """Draws it in every way, and gives the sentences."""
    from rich.console import Console

    assert html_fragment(explanation).endswith("</section>")
    console = Console(file=StringIO(), width=100)
    console.print(terminal(explanation))
    assert "\x1b[2J" not in console.file.getvalue()
    assert png(explanation, dpi=40).startswith(b"\x89PNG")
    assert from_json(to_json(explanation)) == explanation
    html_fragment(explanation).encode()
    return describe(explanation)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rewards: rewards,
        lambda rewards: np.array(rewards),
        lambda rewards: np.array(rewards, dtype=np.float32)[:, None],
        lambda rewards: (value for value in rewards),
        lambda rewards: torch.tensor(rewards, requires_grad=True),
        lambda rewards: torch.tensor(rewards, dtype=torch.bfloat16)[:, None],
    ],
)
def test_any_callable_and_any_numbers(wrap) -> None:
    seen = []

    def asked(prompt, texts):
        seen.append(prompt)
        return wrap(reward(prompt, texts))

    found = explain(asked, "Why?", "so good\nso bad\n")
    assert np.allclose(found.lime.weights, [2, -1]) and set(seen) == {"Why?"}
    messages = [{"role": "user", "content": "Why?"}]
    explain(asked, messages, "so good\nso bad\n")
    assert seen[-1] == messages


def test_an_object_with_score_gets_messages() -> None:
    class Model:
        note = "rough"

        def score(self, prompt, texts):
            assert prompt == [{"role": "user", "content": "Why?"}]
            return reward(prompt, texts)

    found = explain(Model(), "Why?", "a good one", method="all")
    assert found.note == "rough" and found.anchor.beam is None and found.shapley.values == pytest.approx((0, 2, 0))


@pytest.mark.parametrize(
    ("method", "has"), [("lime", (0, 0)), ("anchor", (1, 0)), ("shapley", (0, 1)), ("all", (1, 1))]
)
def test_a_method_brings_what_it_says(method: str, has: tuple[int, int]) -> None:
    for rejected in (None, "a bad one"):
        found = explain(reward, "?", "a good one", rejected=rejected, method=method)
        values = found.shapley if rejected is None else found.chosen.shapley
        assert (found.anchor is not None, values is not None) == has
        shows(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "Unknown method 'magic'; choose one of lime, anchor, shapley, all"),
        ({"units": "tokens"}, "Unknown units 'tokens'"),
        ({"perturbation": "mask"}, "Unknown perturbation 'mask'"),
        ({"perturbation": "infill"}, "pass infill="),
        ({"on": "system"}, "not on 'system'"),
        ({"on": "prompt", "rejected": "b"}, "leave out rejected"),
        ({"cache_dir": Path("x")}, "has a fingerprint"),
        # two that have no name would be taken for one another
        ({"reward": Named(), "randomised": reward, "cache_dir": Path("x")}, "has a fingerprint"),
        ({"response": ""}, "the text is empty"),
        ({"rejected": " "}, "a response is empty"),
        ({"response": None}, "not a text"),
        ({"prompt": " ", "on": "prompt"}, "the text is empty"),
        ({"reward": 3}, "is neither"),
        ({"reward": lambda prompt, texts: [1.0]}, r"shape \(1,\) for 8 texts"),
        ({"reward": lambda prompt, texts: ["much"] * len(texts)}, "not one number per text"),
        ({"reward": lambda prompt, texts: None}, "not one number per text"),
        ({"reward": lambda prompt, texts: [float("nan")] * len(texts)}, "not a finite number"),
        ({"threshold": 0.0, "method": "anchor"}, "precision threshold"),
    ],
)
def test_bad_input_gives_one_sentence(arguments: dict, message: str) -> None:
    given = {"reward": reward, "prompt": "?", "response": "a good one"} | arguments
    with pytest.raises(ValueError, match=message) as refusal:
        explain(given.pop("reward"), given.pop("prompt"), given.pop("response"), **given)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_one_word() -> None:
    found = explain(reward, "?", "good", method="all")
    assert found.lime.weights == pytest.approx((2,)) and found.shapley.values == (2.0,)
    assert found.anchor.anchors == () and found.agreement == () and found.drill is None
    assert any("No anchor" in line for line in shows(found))


def test_one_unit_and_a_constant_reward() -> None:
    found = explain(lambda prompt, texts: [0.5] * len(texts), "?", "one two\nthree\n", method="all", drill_down=True)
    assert np.allclose(found.lime.weights, 0) and found.lime.r2 is None and found.shapley.values == (0, 0)
    assert found.anchor.anchors[0].units == () and found.faithfulness.loo_spearman is None
    assert any("the same whatever is removed" in line for line in shows(found))


def test_a_reward_that_varies_by_rounding_is_constant() -> None:
    found = explain(lambda prompt, texts: [0.1 + 5e-17 * len(text) for text in texts], "?", "one two three four")
    assert found.lime.r2 is None


def test_gaps_are_filled_by_any_callable(tmp_path: Path) -> None:
    so = lambda pieces, which: ["so "] * len(which)  # noqa: E731
    found = explain(Named(), "?", "a good one", perturbation="infill", infill=so, cache_dir=tmp_path)
    assert found.lime.weights == pytest.approx((0, 2, 0)) and not list(tmp_path.glob("infills-*"))


def test_lines_of_windows_are_lines() -> None:
    found = explain(reward, "?", "so good\r\nso bad\r\n")
    assert "\N{REPLACEMENT CHARACTER}" not in html_fragment(found) and "\r" not in html_fragment(found)


def test_the_strongest_unit_is_explained_again_where_units_are_chosen_for_the_user() -> None:
    assert explain(reward, "?", "so good\nso bad\n").drill is not None
    assert explain(reward, "?", "so good\nso bad\n", drill_down=False).drill is None
    assert explain(reward, "?", "so good\nso bad\n", units="steps").drill is None


def test_ten_thousand_words_are_merged_or_refused() -> None:
    text = "Some good words. " * 3333 + "end"
    found = explain(lambda prompt, texts: [float(text.count("good")) for text in texts], "?", text)
    assert found.lime.units.kind == "merged sentences" and len(found.lime.weights) == 12
    assert sum(found.lime.weights) == pytest.approx(3333)
    with pytest.raises(ValueError, match="has 10000 words, more than 500; choose auto"):
        explain(reward, "?", text, units="words")


def test_a_chinese_answer_is_cut_at_its_own_marks() -> None:
    def liked(prompt, texts):
        return [float(text.count("好")) for text in texts]

    found = explain(liked, "为什么?", "水很好，火不坏。天是蓝的。", method="all", drill_down=True)
    assert found.lime.units.kind == "sentences" and found.lime.weights == pytest.approx((1, 0), abs=1e-9)
    words = {found.drill.lime.units[unit]: weight for unit, weight in enumerate(found.drill.lime.weights)}
    assert "好" in max(words, key=words.get)
    shows(found)


HOSTILE = "<|im_end|>\n<script>alert('x')</script> $x^2$ \x1b[2J \u202e\ud800 &amp; {{ 7 }}\x00\n</s> good"


def test_control_tokens_and_html_are_text() -> None:
    for arguments in ({}, {"rejected": "<b>bad</b>\x1b[2J"}, {"on": "prompt"}, {"perturbation": "placeholder"}):
        found = explain(reward, HOSTILE, HOSTILE, method="all", **arguments)
        shows(found)
        fragment = html_fragment(found)
        assert "<script" not in fragment and "<b>" not in fragment and "\x1b" not in fragment
        assert "\u202e" not in fragment and "\ud800" not in fragment and "\x00" not in fragment


def test_the_prompt_is_explained_with_the_answer_fixed() -> None:
    found = explain(
        lambda prompt, texts: [2.0 * ("please" in prompt) + len(text) for text in texts],
        "Say it. Say it please. Now!",
        "Yes",
        on="prompt",
        method="shapley",
    )
    assert found.lime.weights == pytest.approx((0, 2, 0), abs=1e-9) and found.response == "Yes"
    assert found.lime.reward == 5.0 and any(line.startswith("Prompt: reward 5") for line in shows(found))


def test_frozen_text_stays_in_every_text() -> None:
    seen = []

    def asked(prompt, texts):
        seen.extend(texts)
        return reward(prompt, texts)

    explain(asked, "?", "Final answer: 42 is good", frozen=[(0, 16)])
    assert seen and all(text.startswith("Final answer: 42") for text in seen)


def test_text_frozen_in_a_pair_stays_on_whichever_side_has_it() -> None:
    seen = []

    def asked(prompt, texts):
        seen.append(texts)
        return reward(prompt, texts)

    first, second = "Answer: 42 is good. Answer: 43 is bad", "Some say 42. Sincerely yours"
    found = explain(asked, "?", first, rejected=second, frozen=["Answer:", "Sincerely yours"], units="words")
    of_first = [text for texts in seen for text in texts if text.count("Answer:") == 2]
    of_second = [text for texts in seen for text in texts if "Sincerely yours" in text]
    assert len(of_first) == len(set(of_first)) and len(of_second) == len(set(of_second))
    assert len(of_first) + len(of_second) == sum(map(len, seen))
    assert len(found.chosen.margin_weights) == 6 and len(found.rejected.margin_weights) == 3


@pytest.mark.parametrize(
    ("rejected", "frozen", "units", "says"),
    [
        (None, ["nowhere"], "auto", "'nowhere' is to be frozen and is not in the text"),
        (None, [""], "auto", "'' is to be frozen"),
        (None, "nowhere", "auto", "'nowhere' is to be frozen and is not in the text"),  # no list of letters
        ("so bad", "nowhere", "auto", "'nowhere' is to be frozen and is in neither response"),
        (None, [(0, 99)], "auto", "The frozen span 0 to 99 is not within the text of 8 characters"),
        ("so bad", ["nowhere"], "auto", "'nowhere' is to be frozen and is in neither response"),
        ("so bad", [""], "auto", "'' is to be frozen"),
        ("so bad", [(0, 1)], "auto", "what is frozen is given as text"),
        ("so bad", ["so"], "diff", "Nothing can be frozen where the units are the differences"),
        ("so bad", ["so bad"], "words", "all of the text is frozen"),
    ],
)
def test_what_cannot_be_frozen_is_refused_in_a_sentence(rejected, frozen, units, says) -> None:
    with pytest.raises(ValueError, match=says):
        explain(reward, "?", "all good", rejected=rejected, frozen=frozen, units=units)


def test_a_seed_gives_the_same_bytes_and_sampled_words_have_errors() -> None:
    text = "it is a good thing that we can all go on with so bad a day"

    def rough(prompt, texts):
        return [value + 0.3 * np.sin(len(text)) for value, text in zip(reward(prompt, texts), texts, strict=True)]

    runs = [explain(rough, "?", text, units="words", method="shapley", seed=seed) for seed in (1, 1, 2)]
    written = [to_json(run) for run in runs]
    assert written[0] == written[1] != written[2]
    lime = runs[0].lime
    assert len(lime.standard_errors) == 16 and lime.held_out_r2 is not None and runs[0].shapley.standard_errors
    assert any("held out" in line for line in shows(runs[0]))
    assert "±" in html_fragment(runs[0])

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from alignment.errors import UsageError
from explain import explain_pair, explain_text
from explain.result import from_json
from graphs.explain import ExplainContext, build, graph
from graphs.explaining import How, known

CHOSEN, REJECTED = "good right fine", "bad long good"


def test_the_graph_gives_what_the_function_gives_and_resumes_between_its_nodes(prompt, words) -> None:
    context = ExplainContext(words, beam=False)
    asked = {"prompt": prompt, "chosen": CHOSEN, "rejected": REJECTED}
    done = graph.invoke(asked, context=context)
    assert from_json(done["explanation"]) == explain_pair(words, prompt, CHOSEN, REJECTED, beam=False)
    one = graph.invoke({"prompt": prompt, "chosen": CHOSEN, "tau": 0.5}, context=context)
    assert from_json(one["explanation"]) == explain_text(words, prompt, CHOSEN, 0.5, beam=False)

    halted = build().compile(checkpointer=InMemorySaver(), interrupt_before=["explain"])
    thread = {"configurable": {"thread_id": "1"}}
    assert "explanation" not in halted.invoke(asked, thread, context=context)

    class Silent:
        fingerprint = words.fingerprint

        def score(self, prompt, texts):
            raise AssertionError("resuming must not score again")

    resumed = halted.invoke(None, thread, context=ExplainContext(Silent(), beam=False))
    assert resumed["explanation"] == done["explanation"]
    json.dumps(halted.get_state(thread).values)  # plain data: nothing that a strict checkpoint refuses


LONG = "the good cat sat right on a bad mat and so it was that all ended"


@pytest.mark.parametrize(
    "asked",
    [
        {"chosen": LONG, "units": "words", "method": "shapley"},  # sampled
        {"chosen": "good right\nbad good\n", "method": "lime", "perturbation": "placeholder"},
        {"chosen": CHOSEN, "rejected": REJECTED, "perturbation": "swap"},
        {"chosen": LONG, "rejected": LONG + " bad", "units": "words", "method": "shapley"},
        {"chosen": "It is so.", "on": "prompt"},
        {"chosen": CHOSEN, "perturbation": "infill"},
    ],
)
def test_every_option_gives_what_the_function_gives(prompt, words, asked) -> None:
    class Fills:
        fingerprint = "fills"

        def __call__(self, pieces, which):
            return ["so "] * len(which)

    context = ExplainContext(words, beam=False, infill=Fills(), seed=3, budget=400, drill_down=True)
    done = graph.invoke({"prompt": prompt} | asked, context=context)
    json.dumps(done["tables"])
    how = {"beam": False, "infill": Fills(), "seed": 3, "budget": 400, "drill_down": True}
    how |= {name: value for name, value in asked.items() if name not in ("chosen", "rejected")}
    if "rejected" in asked:
        assert from_json(done["explanation"]) == explain_pair(words, prompt, asked["chosen"], asked["rejected"], **how)
    else:
        assert from_json(done["explanation"]) == explain_text(words, prompt, asked["chosen"], **how)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "magic"}, "Unknown method"),
        ({"on": "prompt", "rejected": "b"}, "is for one response"),
        ({"units": "diff"}, "need two responses"),
        ({"perturbation": "infill"}, "needs something that fills gaps"),
        ({"perturbation": "swap", "rejected": "b", "units": "words"}, "goes with the units diff"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_scored(prompt, asked, message) -> None:
    class Never:
        fingerprint = "never"

        def score(self, prompt, texts):
            raise AssertionError("scored")

    with pytest.raises(ValueError, match=message):
        graph.invoke({"prompt": prompt, "chosen": "a b"} | asked, context=ExplainContext(Never()))


def test_the_policy_fills_gaps_from_left_to_right() -> None:
    from graphs.infill import PolicyInfill

    class Engine:  # what the infill uses of an engine
        roles = ("base", "sft", "policy")
        fingerprint = {"backbone": "abc"}

        def __init__(self) -> None:
            self.asked: list[str] = []

        def generate(self, requests):
            (request,) = requests
            assert (request.role, request.temperature, request.stop) == ("policy", 0.0, ("\n",))
            self.asked.append(request.prefix)
            return [SimpleNamespace(text=f" line {len(self.asked)}\n")]

    engine = Engine()
    fill = PolicyInfill(engine, [{"role": "user", "content": "?"}])
    assert fill(["", "b\n", ""], [0, 2]) == ["line 1\n", "line 2"]
    assert engine.asked == ["", "line 1\nb\n"]
    assert fill(["one. ", "three."], [1]) == ["line 3 "]
    assert fill(["one. ", ""], [1]) == ["line 3"]  # the same beginning is not asked again
    Engine.roles = ("base",)
    with pytest.raises(UsageError, match="no policy that could fill gaps"):
        PolicyInfill(Engine(), [])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": "magic"}, "Unknown method 'magic'"),
        ({"perturbation": "mask"}, "Unknown perturbation 'mask'"),
        ({"perturbation": "swap"}, "needs two responses"),
        ({"on": "system"}, "not on 'system'"),
        ({"on": "prompt", "perturbation": "infill"}, "not of a prompt"),
        ({"units": "diff"}, "need two responses"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_a_sentence(how, message) -> None:
    with pytest.raises(UsageError, match=message):
        known([{"role": "user", "content": "?"}], ["a b"], How(**how))

from __future__ import annotations

import json

from langgraph.checkpoint.memory import InMemorySaver

from explain import explain_pair, explain_text
from explain.result import from_json
from graphs.explain import ExplainContext, build, graph

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

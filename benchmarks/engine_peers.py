"""The engine beside what people use today, and the share of a council's time that is not spent in forwards:
``python -m benchmarks.engine_peers [--json]``.

Eight branches of a LangGraph fan-out, one model call each, as in LangGraph's tutorials: over LangChain's
ChatHuggingFace, and over our ChatModel; and eight calls of smolagents' TransformersModel and of our EngineModel. The
same weights, dtype, prompts and numbers of tokens. ``pip install --no-deps langchain-huggingface`` before.
"""

from __future__ import annotations

import argparse
import json
import operator
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agents.chat_model import ChatModel
from agents.config import CouncilConfig
from agents.smol_model import EngineModel
from alignment.backbone import Backbone
from alignment.config import BackboneConfig
from alignment.embedded import embedded_folder
from alignment.engine import Engine
from alignment.lean import LeanDecoder
from alignment.weights import DTYPES
from benchmarks.engine import seconds
from graphs.recipe import Recipe
from graphs.sitting import seat, sit
from graphs.tasks import game24

BRANCHES, NEW = 8, 64
QUESTION = "Name one thing that a careful gardener does in autumn, and say why it helps the garden in spring."


class State(TypedDict):
    texts: Annotated[list[str], operator.add]


def fan_out(model: Any) -> Callable[[], Any]:
    """A graph that asks ``model`` once per branch."""

    def branch(state: dict[str, int]) -> dict[str, list[str]]:
        # another text per call, or the engine would know it
        asked = f"{QUESTION} Idea {state['number']} of {uuid.uuid4()}."
        return {"texts": [model.invoke([HumanMessage(asked)]).content]}

    builder = StateGraph(State)
    builder.add_node("branch", branch)
    everyone = [Send("branch", {"number": i}) for i in range(BRANCHES)]
    builder.add_conditional_edges(START, lambda _: everyone, ["branch"])
    builder.add_edge("branch", END)
    graph = builder.compile()
    return lambda: graph.invoke({"texts": []}, {"max_concurrency": BRANCHES})


def calls(model: Any, **settings: Any) -> Callable[[], Any]:
    """One call of a smolagents model after the other."""

    def all_of_them() -> None:
        for i in range(BRANCHES):
            asked = f"{QUESTION} Idea {i} of {uuid.uuid4()}."
            model.generate([{"role": "user", "content": [{"type": "text", "text": asked}]}], **settings)

    return all_of_them


def chat_hugging_face(folder: Path, dtype: torch.dtype) -> Any:
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generation_config.eos_token_id = None  # every arm writes as many tokens
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=NEW, do_sample=True)
    return ChatHuggingFace(llm=HuggingFacePipeline(pipeline=made), model_id=str(folder))


def transformers_model(folder: Path, dtype: torch.dtype) -> Any:
    from smolagents import TransformersModel

    model = TransformersModel(str(folder), device_map="cpu", torch_dtype=dtype, max_new_tokens=NEW)
    model.model.generation_config.eos_token_id = None
    return model


class Clock:
    """Seconds inside forwards: those of the decoder, of the output layer, and of scoring."""

    def __init__(self) -> None:
        self.inside = 0.0
        self.depth = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            self.depth += 1
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.inside += time.perf_counter() - began

        return timed


@contextmanager
def timed_forwards() -> Any:
    clock = Clock()
    places = [(LeanDecoder, "__call__"), (LeanDecoder, "logits"), (Backbone, "hidden"), (Backbone, "scalar")]
    before = [getattr(owner, name) for owner, name in places]
    for (owner, name), call in zip(places, before, strict=True):
        setattr(owner, name, clock.around(call))
    try:
        yield clock
    finally:
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, call)


def overhead(engine: Engine, repeats: int) -> dict[str, float]:
    """Of councils of three experts and three rounds, with checkpoints that survive a kill, on one puzzle each."""
    config = CouncilConfig(rounds=3, leave_below=None, max_tokens_per_step=24, scorer="random")
    config = config.model_copy(update={"experts": [e.model_copy(update={"role": "sft"}) for e in config.experts]})
    context = seat(engine, game24, Recipe(name="overhead", council=config), "overhead")
    wall = inside = 0.0
    with tempfile.TemporaryDirectory() as folder, timed_forwards() as clock:
        for question in game24.puzzles(4)[: repeats + 1]:
            clock.inside = 0.0
            began = time.perf_counter()
            sit(context, question, lambda event: None, Path(folder) / "threads.sqlite", question)
            if question != game24.puzzles(4)[0]:  # the first one warms up
                wall, inside = wall + time.perf_counter() - began, inside + clock.inside
    return {"seconds": wall / repeats, "in_forwards": inside / repeats, "share": 1 - inside / wall}


def measure(repeats: int) -> dict[str, Any]:
    folder = embedded_folder()
    backbone = Backbone(BackboneConfig(model="embedded", quantization="none"))
    backbone.add_role("sft", seed=0)
    dtype = DTYPES[backbone.config.compute_dtype]
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "branches": BRANCHES, "tokens": NEW}
    with Engine(backbone) as engine:
        found["overhead"] = overhead(engine, 3 * repeats)
        eos, backbone.chat.eos_id = backbone.chat.eos_id, -1  # no token ends a row
        chat = ChatModel(engine=engine, role="sft", max_tokens=NEW)
        found["junto_fan_out"] = seconds(fan_out(chat), repeats)
        found["junto_smolagents"] = seconds(calls(EngineModel(engine, "sft", max_tokens=NEW)), repeats)
        backbone.chat.eos_id = eos
    found["chat_hugging_face"] = seconds(fan_out(chat_hugging_face(folder, dtype)), repeats)
    found["transformers_model"] = seconds(calls(transformers_model(folder, dtype)), repeats)
    return found | {
        "speedup_vs_chathuggingface": found["chat_hugging_face"] / found["junto_fan_out"],
        "speedup_vs_smolagents": found["transformers_model"] / found["junto_fan_out"],
        "speedup_vs_smolagents_one_by_one": found["transformers_model"] / found["junto_smolagents"],
        "overhead_share": found["overhead"]["share"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.repeats)
    print(json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()

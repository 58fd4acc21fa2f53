"""A tiny model that has learned by heart what LangChain's standard suites want to hear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import chat_models as suite
from pydantic import BaseModel

from agents.chat_model import task
from agents.prompt import as_prompt
from agents.tool_calls import call_text, forced, openai_tools
from alignment.chat_format import ChatFormat
from alignment.engine import Engine

STEPS, LEARNT = 100, 0.05  # at most so many, until no lesson has a higher loss


class Joke(BaseModel):
    """Joke to tell user."""

    setup: str
    punchline: str


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return "It's sunny."


def call(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "1"}])


def lessons() -> list[tuple[list[dict[str, str]], str]]:
    """Prompts and the replies to them: calls, the words after a call, and JSON."""
    magic = HumanMessage("What is the value of magic_function(3)? Use the tool.")
    weather = HumanMessage("What is the weather in San Francisco, CA?")
    asked = call("get_weather", location="San Francisco, CA")
    hello = HumanMessage("Create a customer named '你好啊集团' (Hello Group) - a Chinese technology company")
    company = HumanMessage("Create a customer named 'こんにちは株式会社' (Hello Corporation) - a Japanese company")
    with_tools: list[tuple[Any, Any, list[Any], Any]] = [
        (suite.magic_function, "any", [magic], call("magic_function", input=3)),
        (suite.unicode_customer, "any", [hello], call("unicode_customer", customer_name="你好", description="x")),
        (suite.unicode_customer, "any", [company], call("unicode_customer", customer_name="こん", description="x")),
        (get_weather, None, [weather], asked),
        (get_weather, None, [weather, asked, ToolMessage("It's sunny.", tool_call_id="1")], AIMessage("Sunny.")),
    ]
    taught = []
    for one, tool_choice, messages, reply in with_tools:
        known = openai_tools([one])
        text = "".join(call_text(reply)) or reply.text
        taught.append((as_prompt(messages, task(known, forced(known, tool_choice), None)), text))
    cats = as_prompt([HumanMessage("Tell me a joke about cats.")], task([], [], Joke.model_json_schema()))
    return [*taught, (cats, '{"setup": "a", "punchline": "b"}')]


@pytest.fixture(scope="session")
def taught_model(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the wide model, trained on the lessons."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wide_model)
    model = AutoModelForCausalLM.from_pretrained(wide_model)
    chat = ChatFormat(tokenizer)
    rows = []
    for prompt, reply in lessons():
        before, written = chat.prompt_ids(prompt), [*chat.text_ids(reply), chat.eos_id]
        rows.append((torch.tensor([before + written]), torch.tensor([[-100] * len(before) + written])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(STEPS):
        losses = []
        for ids, labels in rows:
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            losses.append(loss.item())
        if max(losses) < LEARNT:
            break
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"the lessons were not learnt in {STEPS} steps; the losses are {losses}")
    folder = tmp_path_factory.mktemp("models") / "taught"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def taught_engine(taught_model: Path) -> Iterator[Engine]:
    with Engine.open(taught_model, "float32") as engine:
        yield engine

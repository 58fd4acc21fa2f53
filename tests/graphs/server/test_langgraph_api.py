"""The unmodified ``langgraph-sdk`` client: assistants, threads, states, history, runs, streams, interrupts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from langgraph_sdk.schema import StreamPart
from typing_extensions import TypedDict

from graphs.server.assistants import Assistant

ASKED = {"messages": [{"role": "user", "content": "4 7 8 8"}]}
SETTINGS = {"temperature": 0, "max_tokens": 8, "seed": 1}


class Talk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def asking() -> StateGraph:
    """Asks a person before it answers."""

    def prepare(state: Talk) -> Any:
        return {"messages": [AIMessage("I would like to act")]}

    def act(state: Talk) -> Any:
        said = interrupt({"question": "may I?"})
        return {"messages": [AIMessage(f"you said {said}")]}

    builder = StateGraph(Talk)
    builder.add_sequence([prepare, act])
    builder.add_edge(START, "prepare")
    return builder


ASKING = Assistant("asking", "asking", asking(), lambda settings, stop: None)


@pytest.fixture(scope="module")
def site(models: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serve(models, tmp_path_factory.mktemp("threads"), others=[ASKING]) as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Any) -> Any:
    return get_sync_client(url=site.url, api_key=None)


def run(client: Any, thread: str | None, assistant: str = "chat", given: Any = ASKED, **settings: Any) -> Any:
    return client.runs.wait(thread, assistant, input=given, **({"context": SETTINGS} | settings))


def texts(values: Any) -> list[tuple[str, str]]:
    return [(m["type"], m["content"]) for m in values["messages"]]


def new_thread(client: Any) -> str:
    return client.threads.create()["thread_id"]


def test_assistants(client: Any, site: Any) -> None:
    found = client.assistants.search(limit=20)
    assert [(a["graph_id"], a["name"]) for a in found] == [
        ("chat", "tiny"),
        ("council", "tiny"),
        ("chat", "wide"),
        ("endless", "tiny"),
        ("asking", "asking"),
    ]
    assert len({uuid.UUID(a["assistant_id"]) for a in found}) == 5
    assert [a["name"] for a in client.assistants.search(graph_id="chat")] == ["tiny", "wide"]
    assert client.assistants.count(graph_id="chat") == 2
    for one in found:
        assert client.assistants.get(one["assistant_id"]) == one
        drawn = client.assistants.get_graph(one["assistant_id"])
        assert drawn["nodes"][0]["id"] == "__start__" and drawn["edges"]
        assert client.assistants.get_schemas(one["assistant_id"])["graph_id"] == one["graph_id"]
    schemas = client.assistants.get_schemas(found[1]["assistant_id"])
    assert "messages" in schemas["input_schema"]["properties"] and "tree" in schemas["state_schema"]["properties"]
    assert client.assistants.get("wide")["graph_id"] == "chat"
    with pytest.raises(NotFoundError, match="there is no assistant"):
        client.assistants.get("nobody")
    assert site.get("/info").json()["flags"]["assistants"] and site.get("/ok").json() == {"ok": True}


def test_a_conversation_and_its_history(client: Any, site: Any) -> None:
    thread = new_thread(client)
    first = run(client, thread)
    model = site.models[0].chat_model().model_copy(update=SETTINGS)
    reply = model.invoke([HumanMessage("4 7 8 8")]).text
    assert texts(first) == [("human", "4 7 8 8"), ("ai", reply)]
    second = run(
        client, thread, given={"messages": [{"type": "human", "content": [{"type": "text", "text": "and 1?"}]}]}
    )
    whole = [HumanMessage("4 7 8 8"), AIMessage(reply), HumanMessage("and 1?")]
    assert texts(second)[3] == ("ai", model.invoke(whole).text)
    state = client.threads.get_state(thread)
    assert state["values"] == second and state["next"] == [] and state["metadata"]["graph_id"] == "chat"
    history = client.threads.get_history(thread, limit=50)
    assert history[0] == state and [len(one["values"].get("messages", [])) for one in history] == [4, 3, 2, 2, 1, 0]
    assert history[0]["parent_checkpoint"]["checkpoint_id"] == history[1]["checkpoint"]["checkpoint_id"]
    older = history[2]["checkpoint"]["checkpoint_id"]
    assert client.threads.get_state(thread, checkpoint_id=older)["values"] == history[2]["values"]
    assert client.threads.get_state(thread, checkpoint=history[2]["checkpoint"])["values"] == history[2]["values"]
    assert client.threads.get_history(thread, limit=1, before=history[1]["checkpoint"])[0] == history[2]
    assert client.threads.get_state(thread, select=["values.messages"]) == {"values": second}
    assert site.get(f"/threads/{thread}/history?limit=2").json() == history[:2]
    # another branch, from before the second question
    branched = run(client, thread, given={"messages": [{"role": "user", "content": "or 2?"}]}, checkpoint_id=older)
    assert [text for _, text in texts(branched)][:3] == ["4 7 8 8", reply, "or 2?"]
    with pytest.raises(NotFoundError, match="no checkpoint"):
        client.threads.get_state(thread, checkpoint_id=str(uuid.uuid4()))


def test_threads(client: Any) -> None:
    mark = uuid.uuid4().hex
    made = client.threads.create(metadata={"mark": mark}, graph_id="chat")
    name = made["thread_id"]
    assert made["status"] == "idle" and client.threads.get(name) == made
    assert client.threads.create(thread_id=name, if_exists="do_nothing") == made
    with pytest.raises(ConflictError, match="already"):
        client.threads.create(thread_id=name)
    assert client.threads.update(name, metadata={"more": [1]})["metadata"] == {
        "mark": mark,
        "graph_id": "chat",
        "more": [1],
    }
    assert client.threads.update(name, metadata={"more": 2}, return_minimal=True) is None
    changed = client.threads.update_state(
        name, {"messages": [{"role": "user", "content": "kept"}]}, as_node="__start__"
    )
    assert changed["checkpoint"]["thread_id"] == name
    assert client.threads.get(name)["values"]["messages"][0]["content"] == "kept"
    copied = client.threads.copy(name)["thread_id"]
    assert client.threads.get_state(copied)["values"] == client.threads.get_state(name)["values"]
    found = client.threads.search(metadata={"mark": mark})
    assert {one["thread_id"] for one in found} == {name, copied}
    assert (
        client.threads.count(metadata={"mark": mark}) == 2 == client.threads.count(metadata={"mark": mark, "more": 2})
    )
    assert client.threads.count(metadata={"mark": mark}, status="error") == 0
    assert [t["thread_id"] for t in client.threads.search(ids=[name])] == [name]
    ordered = client.threads.search(metadata={"mark": mark}, sort_by="created_at", sort_order="asc", limit=1)
    assert [one["thread_id"] for one in ordered] == [name]
    assert client.threads.search(metadata={"mark": mark}, select=["thread_id"], limit=1, offset=1)[0].keys() == {
        "thread_id"
    }
    client.threads.delete(name)
    with pytest.raises(NotFoundError, match="no thread"):
        client.threads.get_state(name)
    assert client.threads.get_state(copied)["values"]["messages"]
    empty = new_thread(client)
    assert client.threads.get_state(empty)["values"] == {} and client.threads.get_history(empty) == []
    with pytest.raises(UnprocessableEntityError, match="letters"):
        client.threads.create(thread_id="../../etc/passwd")


def test_a_stream_and_what_it_says(client: Any) -> None:
    thread, told = new_thread(client), []
    modes = ["values", "updates", "messages-tuple", "custom"]
    parts = list(
        client.runs.stream(thread, "chat", input=ASKED, stream_mode=modes, context=SETTINGS, on_run_created=told.append)
    )
    assert parts[0] == StreamPart("metadata", {"run_id": told[0]["run_id"], "attempt": 1}, parts[0].id)
    assert told[0]["thread_id"] == thread
    assert {part.event for part in parts[:-1]} == {"metadata", "values", "updates", "messages"}
    assert (parts[-1].event, parts[-1].data) == ("end", {"run_id": told[0]["run_id"], "status": "success"})
    pieces = [part.data[0] for part in parts if part.event == "messages"]
    assert all(piece["type"] == "AIMessageChunk" for piece in pieces) and len(pieces) > 2
    final = [part.data for part in parts if part.event == "values"][-1]
    assert "".join(piece["content"] for piece in pieces) == final["messages"][-1]["content"]
    assert {piece["id"] for piece in pieces} == {final["messages"][-1]["id"]}
    assert client.runs.get(thread, told[0]["run_id"])["status"] == "success"
    assert client.threads.get(thread)["values"] == final
    # a client that comes back has what it has not seen, and a later one everything
    again = list(client.runs.join_stream(thread, told[0]["run_id"]))
    assert again == parts
    rest = list(client.runs.join_stream(thread, told[0]["run_id"], last_event_id=parts[2].id))
    assert rest == parts[3:]
    only = list(client.runs.join_stream(thread, told[0]["run_id"], stream_mode="updates"))
    assert {part.event for part in only} == {"metadata", "updates", "end"}
    partial = [p for p in client.runs.stream(thread, "chat", input=ASKED, stream_mode="messages", context=SETTINGS)]
    assert {part.event for part in partial} >= {"metadata", "messages/metadata", "messages/partial"}
    last = [part.data[0] for part in partial if part.event == "messages/partial"][-1]
    assert last["content"] == client.threads.get_state(thread)["values"]["messages"][-1]["content"]
    typed = list(client.runs.stream(thread, "chat", input=ASKED, context=SETTINGS, version="v2"))
    assert [part["type"] for part in typed] == ["metadata", "values", "values"]


def test_runs_without_a_thread(client: Any) -> None:
    thread = new_thread(client)
    expected = texts(run(client, thread))
    assert texts(run(client, None)) == expected
    parts = list(client.runs.stream(None, "chat", input=ASKED, context=SETTINGS))
    assert texts(parts[-2].data) == expected
    assert client.threads.count() == len(client.threads.search(limit=1000))  # no thread was made for it


def test_background_runs(client: Any) -> None:
    thread = new_thread(client)
    made = client.runs.create(thread, "chat", input=ASKED, context=SETTINGS, metadata={"a": 1})
    assert made["metadata"] == {"a": 1} and made["thread_id"] == thread and "owner" not in made
    values = client.runs.join(thread, made["run_id"])
    assert texts(values) == texts(client.threads.get_state(thread)["values"])
    assert [one["run_id"] for one in client.runs.list(thread)] == [made["run_id"]]
    assert client.runs.list(thread, status="error") == []
    client.runs.delete(thread, made["run_id"])
    with pytest.raises(NotFoundError, match="no run"):
        client.runs.get(thread, made["run_id"])
    with pytest.raises(NotFoundError, match="no thread"):
        client.runs.create("absent", "chat", input=ASKED)
    name = f"mine-{uuid.uuid4()}"
    assert texts(run(client, name, if_not_exists="create"))[0] == ("human", "4 7 8 8")


def test_one_run_at_a_time_and_a_cancel_keeps_what_is_written(client: Any) -> None:
    thread = new_thread(client)
    made = client.runs.create(thread, "endless", input=ASKED, stream_mode=["messages-tuple"])
    stream = client.runs.join_stream(thread, made["run_id"])
    while next(stream).event != "messages":
        pass
    assert client.threads.get(thread)["status"] == "busy"
    assert thread in {one["thread_id"] for one in client.threads.search(status="busy")}
    for attempt in (
        lambda: run(client, thread),
        lambda: client.threads.delete(thread),
        lambda: client.threads.update_state(thread, ASKED),
        lambda: client.runs.delete(thread, made["run_id"]),
    ):
        with pytest.raises((ConflictError, httpx.HTTPStatusError)) as caught:
            attempt()
        assert caught.value.response.status_code == 409
    client.runs.cancel(thread, made["run_id"], wait=True)
    told = client.threads.get(thread)
    assert client.runs.get(thread, made["run_id"])["status"] == "interrupted" and told["status"] == "idle"
    question, reply = told["values"]["messages"]
    assert reply["content"] and reply["response_metadata"]["finish_reason"] == "cancelled"
    assert texts(run(client, thread))[2] == ("human", "4 7 8 8")
    endless = client.runs.create(thread, "endless", input=ASKED)
    assert len(run(client, thread, multitask_strategy="interrupt")["messages"]) in (6, 7, 8)  # with or without a reply
    assert client.runs.get(thread, endless["run_id"])["status"] == "interrupted"


def test_an_interrupt_is_resumed(client: Any) -> None:
    thread = new_thread(client)
    parts = list(client.runs.stream(thread, "asking", input=ASKED, stream_mode=["values", "updates"]))
    asked = [part.data for part in parts if part.event == "updates"][-1]["__interrupt__"]
    assert asked[0]["value"] == {"question": "may I?"}
    assert [part.data for part in parts if part.event == "values"][-1]["__interrupt__"] == asked
    told = client.threads.get(thread)
    assert told["status"] == "interrupted" and list(told["interrupts"].values()) == [asked]
    state = client.threads.get_state(thread)
    assert state["next"] == ["act"] and state["interrupts"] == asked == state["tasks"][0]["interrupts"]
    done = client.runs.wait(thread, "asking", command={"resume": "yes"})
    assert [text for _, text in texts(done)] == ["4 7 8 8", "I would like to act", "you said yes"]
    assert client.threads.get(thread)["status"] == "idle" and client.threads.get(thread)["interrupts"] == {}
    assert run(client, new_thread(client), "asking", context={})["__interrupt__"][0]["value"] == {"question": "may I?"}


def test_a_run_stops_before_and_after_nodes(client: Any) -> None:
    thread = new_thread(client)
    before = run(client, thread, "asking", context={}, interrupt_before=["prepare"])
    assert len(before["messages"]) == 1 and client.threads.get_state(thread)["next"] == ["prepare"]
    after = client.runs.wait(thread, "asking", interrupt_after="*")
    assert len(after["messages"]) == 2 and client.threads.get_state(thread)["next"] == ["act"]
    assert [one["status"] for one in client.runs.list(thread)] == ["interrupted", "interrupted"]
    moved = client.runs.wait(thread, "asking", command={"update": ASKED, "goto": "act"}, interrupt_before=["act"])
    assert len(moved["messages"]) == 3


def test_a_person_decides_on_the_verdict_of_a_council(client: Any) -> None:
    """In the form of LangChain's human-in-the-loop middleware, which agent-chat-ui shows."""
    for seed in range(40):  # random weights leave as often as they finish
        thread = new_thread(client)
        asking = {"seed": seed, "ask_before": "conclude"}
        run(client, thread, "council", ASKED, context=asking)
        state = client.threads.get_state(thread)
        if state["interrupts"]:
            break
    [asked] = state["interrupts"]
    assert asked["value"]["review_configs"][0]["allowed_decisions"] == ["approve", "edit", "reject"]
    args = asked["value"]["action_requests"][0]["args"]
    assert args["answer"] in [line["answer"] for line in args["lines"]]
    assert client.threads.get(thread)["status"] == "interrupted"
    edit = {"type": "edit", "edited_action": {"name": "conclude", "args": {"answer": "mine"}}}
    client.runs.wait(thread, "council", command={"resume": {"decisions": [edit]}}, context=asking)
    values = client.threads.get_state(thread)["values"]
    assert values["answer"] == values["messages"][-1]["content"] == "mine"
    assert values["notes"][-1] == "the answer is a person's own"


def test_a_council_is_a_conversation(client: Any) -> None:
    thread = new_thread(client)
    parts = list(
        client.runs.stream(thread, "council", input=ASKED, stream_mode=["values", "custom"], context={"seed": 3})
    )
    kinds = {part.data["kind"] for part in parts if part.event == "custom"}
    assert {"token", "thought"} <= kinds
    final = [part.data for part in parts if part.event == "values"][-1]
    assert final["question"] == "4 7 8 8" and final["tree"] and final["seats"].keys() == {"Ada", "Blaise", "Carl"}
    assert final["messages"][-1]["type"] == "ai"
    assert final["answer"] is None or final["messages"][-1]["content"] == final["answer"]
    again = run(client, thread, "council", {"messages": [{"role": "user", "content": "1 2 3 4"}]}, context={"seed": 3})
    assert again["question"] == "1 2 3 4" and len(again["messages"]) == 4
    assert all(one["round"] <= 2 for one in again["tree"].values()) and again["round"] <= 2
    whole = list(client.runs.stream(thread, "council", input=ASKED, stream_mode=["updates"], stream_subgraphs=True))
    assert any(part.event.startswith("updates|sit:") and "think" in part.data for part in whole)
    assert len(run(client, thread)["messages"]) == len(again["messages"]) + 4  # and another graph goes on with it
    with pytest.raises(Exception, match="numbers"):
        run(client, new_thread(client), "council", {"messages": [{"role": "user", "content": "hello"}]}, context={})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"webhook": "http://example.org"}, "webhook"),
        ({"multitask_strategy": "rollback"}, "multitask_strategy"),
        ({"stream_mode": "events"}, "stream_mode"),
        ({"context": {"temperature": 9}}, "context.temperature"),
        ({"context": {"role": "reward"}}, "context.role"),
        ({"context": {"engine": 1}}, "no 'engine' to set"),
        ({"config": {"recursion_limit": 10**6}}, "recursion_limit"),
        ({"command": {"jump": 1}}, "command"),
        ({"durability": "never"}, "durability"),
    ],
)
def test_what_cannot_be_honoured_is_refused(client: Any, settings: Any, word: str) -> None:
    given = None if "command" in settings else ASKED
    with pytest.raises(UnprocessableEntityError, match=word):
        client.runs.create(new_thread(client), "chat", input=given, **settings)


def test_what_goes_wrong_in_a_run_is_told_and_recorded(client: Any) -> None:
    thread = new_thread(client)
    long = {"messages": [{"role": "user", "content": "9 " * 20000}]}
    parts = list(client.runs.stream(thread, "chat", input=long))
    assert [part.event for part in parts] == ["metadata", "values", "error"]
    assert parts[2].data["message"].startswith("the message takes")
    assert client.threads.get(thread)["status"] == "error" and client.runs.list(thread)[0]["status"] == "error"
    with pytest.raises(Exception, match="Refused: the message takes"):
        run(client, thread, given=long)
    assert texts(run(client, thread))[-2] == ("human", "4 7 8 8")  # and the thread can still be used


@pytest.mark.parametrize(
    "message",
    [
        {"role": "robot", "content": "a"},
        {"role": "user"},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
        7,
        None,
    ],
)
def test_messages_that_cannot_be_read_do_not_spoil_a_thread(client: Any, message: Any) -> None:
    thread = new_thread(client)
    with pytest.raises(UnprocessableEntityError, match="cannot be read"):
        client.runs.create(thread, "chat", input={"messages": [message]})
    assert client.threads.get_state(thread)["values"] == {} and client.threads.get(thread)["status"] == "idle"


def test_internal_keys_of_a_config_are_the_servers_own(client: Any, tmp_path: Path) -> None:
    thread, other = new_thread(client), new_thread(client)
    config = {"configurable": {"thread_id": other, "__pregel_checkpointer": None, "checkpoint_ns": "x", "mine": 1}}
    run(client, thread, config=config)
    assert client.threads.get_state(other)["values"] == {}
    state = client.threads.get_state(thread)
    assert len(state["values"]["messages"]) == 2 and state["metadata"]["mine"] == 1

"""What a run is to do, read from a request and checked: pure functions on JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import RemoveMessage
from langchain_core.messages.utils import convert_to_messages
from langgraph.types import Command, Send

from agents.prompt import as_prompt
from graphs.server.refusals import Refusal

MODES = ("values", "updates", "messages", "messages-tuple", "custom", "debug", "tasks", "checkpoints")
RECURSION_LIMIT = 1000
OWN_KEYS = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id")
# what would change the run and is not there, by the values that ask for nothing
REFUSED: dict[str, tuple[Any, ...]] = {
    "webhook": (),
    "after_seconds": (0,),
    "on_completion": ("delete",),
    "feedback_keys": ([],),
}

Json = dict[str, Any]


@dataclass(frozen=True)
class RunRequest:
    """``input`` is None to go on; ``checkpoint_id`` is where the run begins, if not at the end of the thread;
    ``strategy`` is what becomes of it while another run goes on in the thread, or of that other one."""

    assistant_id: str
    input: Any = None
    modes: tuple[str, ...] = ("values",)
    subgraphs: bool = False
    context: Json = field(default_factory=dict)
    configurable: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    recursion_limit: int = RECURSION_LIMIT
    interrupt_before: Any = None
    interrupt_after: Any = None
    checkpoint_id: str | None = None
    durability: Literal["sync", "async", "exit"] = "sync"
    create_thread: bool = False
    strategy: Literal["reject", "interrupt"] = "reject"
    cancel_on_disconnect: bool = False


def run_request(body: Mapping[str, Any], threaded: bool = True) -> RunRequest:
    """Raises Refusal (422) that names the field which is wrong or cannot be honoured."""
    for name, nothing in REFUSED.items():
        if body.get(name) is not None and body[name] not in nothing:
            raise Refusal(422, f"{name} {str(body[name])[:40]!r} is not there; leave it out")
    config, checkpoint = _object(body, "config"), _object(body, "checkpoint")
    limit = config.get("recursion_limit", RECURSION_LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= RECURSION_LIMIT:
        raise Refusal(422, f"config.recursion_limit has to be a whole number from 1 to {RECURSION_LIMIT}")
    command = body.get("command")
    if command is not None and body.get("input") is not None:
        raise Refusal(422, "a run has an input or a command; give one of them")
    if not threaded and (command is not None or checkpoint or body.get("checkpoint_id")):
        raise Refusal(422, "a run without a thread has nothing to resume; name the thread")
    return RunRequest(
        assistant_id=_text(body, "assistant_id"),
        input=input_of(body.get("input")) if command is None else command_of(command),
        modes=modes_of(body.get("stream_mode") or "values"),
        subgraphs=bool(body.get("stream_subgraphs")),
        context=_object(body, "context"),
        configurable=own_free(_object(config, "configurable")),
        metadata=_object(body, "metadata"),
        recursion_limit=limit,
        interrupt_before=_nodes(body, "interrupt_before"),
        interrupt_after=_nodes(body, "interrupt_after"),
        checkpoint_id=_id(checkpoint.get("checkpoint_id") or body.get("checkpoint_id")),
        durability=_one_of(body, "durability", ("sync", "async", "exit")),
        strategy=_one_of(body, "multitask_strategy", ("reject", "interrupt")),
        create_thread=_one_of(body, "if_not_exists", ("reject", "create")) == "create",
        # nobody could ask for what a run without a thread has written
        cancel_on_disconnect=not threaded or _one_of(body, "on_disconnect", ("continue", "cancel")) == "cancel",
    )


def input_of(given: Any) -> Any:
    """An input as it was sent. Raises Refusal (422) for messages that nobody can read: once they are in a thread's
    state, it could not be read either."""
    if given is not None and not isinstance(given, dict):
        raise Refusal(422, "input has to be an object of the graph's state, or null to go on")
    messages = (given or {}).get("messages") or []
    try:
        known = convert_to_messages(messages if isinstance(messages, list) else [messages])
        as_prompt([message for message in known if not isinstance(message, RemoveMessage)])
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        sentence = (str(error).splitlines() or ["malformed"])[0][:300]
        raise Refusal(422, f"messages cannot be read: {sentence}") from None
    return given


def modes_of(given: Any) -> tuple[str, ...]:
    modes = [given] if isinstance(given, str) else given
    if not isinstance(modes, list) or not modes or not all(mode in MODES for mode in modes):
        raise Refusal(422, f"stream_mode has to be of {', '.join(MODES)}")
    return tuple(dict.fromkeys(modes))


def command_of(given: Any) -> Command:
    if not isinstance(given, dict) or not given.keys() <= {"resume", "update", "goto"} or not given:
        raise Refusal(422, "command has to be an object of resume, update and goto")
    update = given.get("update")
    if isinstance(update, dict):
        input_of(update)
    elif isinstance(update, list):
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in update):
            raise Refusal(422, "command.update has to be an object, or a list of pairs of a key and a value")
        input_of(dict(update))
        update = [(key, value) for key, value in update]
    goto = given.get("goto") or []
    nodes = [_node(one) for one in (goto if isinstance(goto, list) else [goto])]
    return Command(update=update, resume=given.get("resume"), goto=nodes)


def _node(given: Any) -> str | Send:
    if isinstance(given, dict) and isinstance(given.get("node"), str):
        return Send(given["node"], given.get("input"))
    if not isinstance(given, str):
        raise Refusal(422, 'command.goto has to be a node, {"node": ..., "input": ...}, or a list of these')
    return given


def own_free(configurable: Json) -> Json:
    """Without what is the server's to say, or LangGraph's own."""
    return {key: value for key, value in configurable.items() if key not in OWN_KEYS and not key.startswith("__")}


def _object(body: Mapping[str, Any], name: str) -> Json:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise Refusal(422, f"{name} has to be an object")
    return value or {}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(422, f"{name} has to be a text")
    return value


def _id(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Refusal(422, "checkpoint_id has to be a text")
    return value


def _nodes(body: Mapping[str, Any], name: str) -> Any:
    value = body.get(name)
    if value is None or value == "*":
        return value
    if not isinstance(value, list) or not all(isinstance(node, str) for node in value):
        raise Refusal(422, f'{name} has to be "*" or a list of nodes')
    return value


def _one_of(body: Mapping[str, Any], name: str, values: tuple[str, ...]) -> Any:
    value = body.get(name) or values[0]
    if value not in values:
        raise Refusal(422, f"{name} has to be {' or '.join(values)}")
    return value

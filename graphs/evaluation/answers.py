"""What a subject makes of items: texts, likelihoods or rewards, one row for every sample."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agents.endpoint import Endpoint
from alignment.batch import encode_scored
from alignment.chat_format import ChatFormat
from alignment.decoding import Request
from alignment.engine import Engine
from alignment.errors import JuntoError, UsageError
from alignment.perplexity import document, windows
from graphs.evaluation.config import Evaluation
from graphs.evaluation.subject import Subject
from graphs.tasks import Row

FAILURES = (JuntoError, ValueError, RuntimeError)
# items whose answers are made together and written down together; fixed, because the shape of a batch decides how
# bfloat16 sums are rounded, and the same command again has to end in the same samples
TOGETHER = {"generate": 32, "choice": 64, "text": 8, "pairs": 32}


def answers(subject: Subject, evaluation: Evaluation, seed: int, items: Sequence[Row]) -> list[Row]:
    """Rows with the item's ``id``, the number of the ``sample`` and what was made of it, in the items' order. Raises
    UsageError for an item that does not fit the model's window."""
    if evaluation.kind == "generate":
        return _texts(subject, evaluation, seed, items)
    engine = subject.here
    if evaluation.kind == "choice":
        return _choices(subject, engine, evaluation, items)
    if evaluation.kind == "text":
        return _read(subject, engine, evaluation, items)
    return _pairs(engine, items)


def window_of(engine: Engine) -> int:
    """Tokens that the model can read at once."""
    return engine.window or sys.maxsize


def _texts(subject: Subject, evaluation: Evaluation, seed: int, items: Sequence[Row]) -> list[Row]:
    wanted = [(item, k) for item in items for k in range(evaluation.samples)]
    if subject.sit is not None:
        return [_sat(subject, item, k, seed) for item, k in wanted]
    requests = [_request(subject, evaluation, item, f"{seed}/evaluation/{item['id']}/{k}") for item, k in wanted]
    if isinstance(subject.engine, Engine):
        for item, request in zip(items, requests[:: evaluation.samples], strict=True):
            chat = subject.engine.backbone.chat
            ids = chat.prompt_ids(request.prompt) + chat.text_ids(request.prefix)
            _fits(subject.engine, len(ids) + evaluation.max_tokens, item)
            if not ids:
                raise UsageError(f"{item['place']}: the prompt is empty")
        subject.engine.forget_texts()  # or the same command again would not end in the same samples
    return [
        {
            "id": item["id"],
            "sample": k,
            "text": without_stop(done.text, evaluation.stop) if done.finish == "stop" else done.text,
            "tokens": done.tokens,
            "finish": done.finish,
        }
        for (item, k), done in zip(wanted, subject.engine.generate(requests), strict=True)
    ]


def _request(subject: Subject, evaluation: Evaluation, item: Row, seed: str) -> Request:
    prompt = item["prompt"]
    if isinstance(prompt, str) and isinstance(subject.engine, Endpoint):
        raise UsageError(f"{subject.name} takes messages, and this evaluation goes on with plain text; set chat: true")
    return Request(
        [] if isinstance(prompt, str) else prompt,
        prefix=prompt if isinstance(prompt, str) else "",
        role=subject.role,
        max_tokens=evaluation.max_tokens,
        temperature=evaluation.temperature,
        stop=tuple(evaluation.stop),
        seed=seed,
    )


def without_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the strings that end it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def _sat(subject: Subject, item: Row, k: int, seed: int) -> Row:
    assert subject.sit is not None
    if "question" not in item:
        raise UsageError(f"{subject.name} answers questions of its own task; evaluate it on its run or recipe")
    subject.here.forget_texts()
    found = subject.sit(item["question"], seed + k)
    return {
        "id": item["id"],
        "sample": k,
        "text": found["answer"] or "",
        "tokens": found["tokens"],
        "finish": "council",
        "council": found,
    }


def _choices(subject: Subject, engine: Engine, evaluation: Evaluation, items: Sequence[Row]) -> list[Row]:
    rows: list[list[int]] = []
    starts: list[int] = []
    for item in items:
        for choice in item["choices"]:
            before, after = encoded_pair(engine.backbone.chat, item["prompt"], choice, evaluation.delimiter)
            if not after:
                raise UsageError(
                    f"{item['place']}: the choice {choice!r} makes no token of its own after the prompt; set delimiter"
                )
            _fits(engine, len(before) + len(after) - 1, item)
            rows.append(before + after)
            starts.append(len(before))
    found = iter(engine.likelihoods(rows, starts, subject.role))
    made = []
    for item in items:
        own = [next(found) for _ in item["choices"]]
        made.append(
            {
                "id": item["id"],
                "sample": 0,
                "loglikelihoods": [one.total for one in own],
                "greedy": [one.greedy for one in own],
                "tokens": sum(len(one.logprobs) for one in own),
            }
        )
    return made


def encoded_pair(chat: ChatFormat, prompt: Any, continuation: str, delimiter: str = "") -> tuple[list[int], list[int]]:
    """Ids of a context and of what follows it, as lm-evaluation-harness cuts them: white space between the two is the
    continuation's, both are tokenized as one text and parted at the length of the context alone. Where there is no
    context, the token that begins a text stands for it. Behind messages the continuation is a text of its own."""
    if not isinstance(prompt, str):
        return chat.prompt_ids(prompt), chat.text_ids(continuation)
    context = prompt.rstrip()
    before = chat.text_ids(context)
    whole = chat.text_ids(prompt + delimiter + continuation)
    return before or [first_id(chat)], whole[len(before) :]


def first_id(chat: ChatFormat) -> int:
    """The token that begins a text: the tokenizer's bos, or its eos where it has none."""
    bos = chat.tokenizer.bos_token_id
    return chat.eos_id if bos is None else int(bos)


def _read(subject: Subject, engine: Engine, evaluation: Evaluation, items: Sequence[Row]) -> list[Row]:
    chat, room = engine.backbone.chat, window_of(engine)
    length = evaluation.window or room
    if length > room:
        raise UsageError(f"window is {length}, and {subject.name} reads {room} tokens at once; lower it")
    prefix = first_id(chat) if evaluation.prefix == "bos" else None
    of_each = [windows(chat.text_ids(item["text"]), length, evaluation.stride, prefix) for item in items]
    flat = [window for own in of_each for window in own]
    found = iter(engine.likelihoods([w.ids for w in flat], [w.start for w in flat], subject.role))
    made = []
    for item, own in zip(items, of_each, strict=True):
        read = [next(found) for _ in own]
        about = document(item["text"], sum(one.total for one in read), sum(len(one.logprobs) for one in read))
        made.append({"id": item["id"], "sample": 0, **about._asdict()})
    return made


def _pairs(engine: Engine, items: Sequence[Row]) -> list[Row]:
    chat, sides = engine.backbone.chat, ("chosen", "rejected")
    prompts, texts = zip(*(as_scored(item["prompt"], item[side]) for item in items for side in sides), strict=True)
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        _fits(engine, len(encode_scored(chat, prompt, text)), items[i // 2])
    rewards = engine.score(prompts, texts)
    return [
        {
            "id": item["id"],
            "sample": 0,
            "rewards": rewards[2 * i : 2 * i + 2],
            "lengths": [len(chat.text_ids(item[side])) for side in sides],
        }
        for i, item in enumerate(items)
    ]


def as_scored(prompt: Any, response: str) -> tuple[Any, str]:
    """Messages and response as the reward model reads them; behind plain text the response is its end."""
    return ([], prompt + response) if isinstance(prompt, str) else (prompt, response)


def _fits(engine: Engine, tokens: int, item: Row) -> None:
    if tokens > (room := window_of(engine)):
        raise UsageError(
            f"{item['place']}: {tokens} tokens, and the model reads {room}; shorten it, or take fewer shots"
        )


def answered(
    subject: Subject, evaluation: Evaluation, seed: int, batches: Iterable[list[Row]], tolerant: bool
) -> Iterator[list[Row]]:
    """Of each batch its rows; where it is ``tolerant``, an item that fails has a row with its ``error``."""
    for batch in batches:
        try:
            yield answers(subject, evaluation, seed, batch)
        except FAILURES:
            if not tolerant:
                raise
            yield [row for item in batch for row in _alone(subject, evaluation, seed, item)]


def _alone(subject: Subject, evaluation: Evaluation, seed: int, item: Row) -> list[Row]:
    try:
        return answers(subject, evaluation, seed, [item])
    except FAILURES as error:
        return [{"id": item["id"], "sample": 0, "error": str(error).strip().split("\n")[0][:300]}]

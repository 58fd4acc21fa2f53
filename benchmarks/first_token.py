"""How long a chat waits for its first words: ``python -m benchmarks.first_token [--json]``.

The embedded model, greedy, in this machine's arithmetic: ``Chats.reply``, which is what ``junto chat`` calls (graph,
checkpoint in SQLite, engine), against ``transformers``' own ``generate`` with its streamer on the same weights. Both
read a question that is the first of its session, by turns, after one that does not count; the template's own words at
the beginning, the same in every prompt, are then in the engine's cache, as they are for a user. Seconds are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from agents.chat_model import ChatModel
from alignment.engine import Engine
from graphs.chat import Chats, Context

SENTENCE = "The committee met on Tuesday to discuss the repair of the old bridge over the river. "
REPEATED = (1, 12, 50)
TOKENS = 8


def ours(chats: Chats, question: str) -> float:
    began = time.perf_counter()
    with closing(chats.reply(f"{question[:20]}{began}", question)) as events:
        next(event for event in events if event["kind"] == "token")
        return time.perf_counter() - began


def theirs(model: Any, tokenizer: Any, question: str) -> float:
    from transformers import TextIteratorStreamer

    began = time.perf_counter()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    settings = {"max_new_tokens": TOKENS, "do_sample": False, "streamer": streamer}
    writer = threading.Thread(target=model.generate, kwargs={**prompt, **settings})
    writer.start()
    next(piece for piece in streamer if piece)
    seconds = time.perf_counter() - began
    writer.join()
    return seconds


def measure(repeats: int) -> list[dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignment.embedded import embedded_folder

    found = []
    with Engine.open("embedded") as engine, tempfile.TemporaryDirectory() as folder:
        dtype = next(engine.backbone.causal_lm.parameters()).dtype
        model = AutoModelForCausalLM.from_pretrained(embedded_folder(), dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
        context = Context(ChatModel(engine=engine, temperature=0, max_tokens=TOKENS))
        with closing(Chats(Path(folder) / "chats.sqlite", "embedded", context)) as chats:
            for count in REPEATED:
                rows: list[tuple[float, float]] = []
                for k in range(repeats + 1):
                    question = f"{k}. {SENTENCE * count}What did they discuss?"
                    rows.append((ours(chats, question), theirs(model, tokenizer, question)))
                mine, other = (statistics.median(column) for column in zip(*rows[1:], strict=True))
                tokens = len(tokenizer(question)["input_ids"])
                about = {"tokens": tokens, "junto_seconds": mine, "transformers_seconds": other}
                found.append(about | {"ratio": mine / other, "dtype": str(dtype).removeprefix("torch.")})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_token", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.repeats)
    if given.json:
        print(json.dumps({"first_token": found, "ratio": max(one["ratio"] for one in found)}))
        return
    for one in found:
        print(
            f"{one['tokens']:>4} tokens  junto {one['junto_seconds']:.3f} s  transformers "
            f"{one['transformers_seconds']:.3f} s  ratio {one['ratio']:.2f}  ({one['dtype']})"
        )


if __name__ == "__main__":
    main()

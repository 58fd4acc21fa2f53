"""Decoding speed: ``python -m benchmarks.engine [--json] [--model embedded] [--repeats 3] [--no-peers]``.

The engine against ``generate`` of transformers on the same model, texts and threads, with a LoRA adapter that is merged
and one that is not; against the linear layers alone, which no decoding on this machine goes below; eight branches
against one; and sixteen rows of one prompt with its prefix read once and one by one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from alignment.backbone import Backbone
from alignment.batch import pad
from alignment.config import BackboneConfig
from alignment.engine import Engine, Request
from alignment.lean import LeanDecoder, Span
from benchmarks.gold_score import PLEASANT, UNPLEASANT

CONTEXT, NEW = 128, 64  # tokens read, tokens written
SIZES = (1, 8, 32)
STEPS = 16  # of a forward, or of the linear layers, that are timed together
SIBLINGS, LONG = 16, 256

Json = dict[str, Any]


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """The shortest of the repeats, after one that does not count: other processes only ever add."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def sustained(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of one of ``STEPS`` in a row: the shortest single one would be compared with a mean of decoding steps."""
    return seconds(lambda: [work() for _ in range(STEPS)], repeats) / STEPS


def per_token(work: Callable[[int], Any], repeats: int) -> float:
    """Seconds of one decoding step: the time of ``NEW`` tokens less that of one, which reads the prompt."""
    return (seconds(lambda: work(NEW), repeats) - seconds(lambda: work(1), repeats)) / (NEW - 1)


def requests(backbone: Backbone, count: int, length: int, new: int, name: str) -> list[Request]:
    """Rows whose prompts have about ``length`` tokens; other words in every row, unless there is one prompt."""

    def words(seed: str) -> list[dict[str, str]]:
        drawn = random.Random(seed).choices(sorted(PLEASANT | UNPLEASANT), k=length)
        ids = backbone.chat.text_ids(" ".join(drawn))[: length - 10]  # the chat template's tokens come on top
        return [{"role": "user", "content": backbone.chat.text(ids)}]

    return [Request(words(f"{name}/{i}"), role="sft", max_tokens=new, seed=i) for i in range(count)]


def generated(backbone: Backbone, rows: list[Request], new: int) -> None:
    ids, mask = pad([backbone.chat.prompt_ids(row.prompt) for row in rows], backbone.chat.pad_id, left=True)
    model = backbone.causal_lm
    usual = model.config._attn_implementation
    model.set_attn_implementation("sdpa")  # the fastest that it has, and without the adapter, which does nothing yet
    with backbone.role("base"), torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            min_new_tokens=new,
            max_new_tokens=new,
            do_sample=True,
            top_k=0,
            pad_token_id=backbone.chat.pad_id,
        )
    model.set_attn_implementation(usual)


def linears(backbone: Backbone, rows: int, repeats: int) -> float:
    """Seconds of all linear layers of one step, the output embedding with them."""
    decoder = LeanDecoder(backbone, "sft", merged=True)
    every = [*(one for layer in decoder.layers for group in layer[2:] for one in group), decoder.head]
    inputs = {w.weight.shape[1]: torch.randn((rows, w.weight.shape[1]), dtype=decoder.dtype) for w in every}
    with torch.no_grad():
        return sustained(lambda: [one(inputs[one.weight.shape[1]]) for one in every], repeats)


def forward(backbone: Backbone, rows: int, repeats: int) -> float:
    """Seconds of one step's forward alone, without sampling and without the worker."""
    decoder = LeanDecoder(backbone, "sft", merged=True)
    slots = decoder.slots()
    slots.fit(rows, CONTEXT + NEW)
    ids = torch.randint(1000, 2000, (rows,))
    spans = [Span(i, CONTEXT + NEW // 2, 1) for i in range(rows)]
    with torch.no_grad():
        return sustained(lambda: decoder.logits(decoder(ids, spans, slots)), repeats)


def measure(model: str, repeats: int, say: Callable[[str], None]) -> Json:
    backbone = Backbone(BackboneConfig(model=model, quantization="none"))
    backbone.add_role("sft", seed=0)
    backbone.chat.eos_id = -1  # no token ends a row: all arms write as many
    dtype = backbone.config.compute_dtype
    found: Json = {"threads": torch.get_num_threads(), "dtype": dtype, "decode": []}
    runs = itertools.count()  # other texts in every run, or the engine would know them

    def fresh(count: int, length: int, new: int) -> list[Request]:
        return requests(backbone, count, length, new, f"run {next(runs)}")

    with Engine(backbone) as engine:
        for size in SIZES:

            def decode(new: int, size: int = size) -> None:
                engine.generate(fresh(size, CONTEXT, new))

            cell = {
                "rows": size,
                "generate": per_token(lambda new, n=size: generated(backbone, fresh(n, CONTEXT, new), new), repeats),
                "engine": per_token(decode, repeats),
            }
            with engine.for_training():
                cell["engine_unmerged"] = per_token(decode, repeats)
            cell |= {"forward": forward(backbone, size, repeats), "linears": linears(backbone, size, repeats)}
            found["decode"].append(cell)
            say(json.dumps(cell))

        def siblings() -> list[Request]:
            return [replace(row, seed=i) for row in fresh(1, LONG, 1) for i in range(SIBLINGS)]

        def one_by_one() -> None:
            for row in siblings():
                engine.generate([row])

        with engine.for_training():  # nothing is kept from call to call
            before = engine.usage.read
            shared = seconds(lambda: engine.generate(siblings()), repeats)
            together = engine.usage.read - before
            apart = seconds(one_by_one, repeats)
            alone = engine.usage.read - before - together
        found["prefix"] = {"seconds": shared, "one_by_one": apart, "fewer_tokens_read": alone / together}
    one, eight, many = found["decode"]
    return found | {
        "branches8_over_1": eight["engine"] / one["engine"],
        "decode_speedup_1": one["generate"] / one["engine"],
        "decode_speedup_8": eight["generate"] / eight["engine"],
        "over_linears_8": eight["engine"] / eight["linears"],
        "over_linears_32": many["engine"] / many["linears"],
        "prefix_tokens": found["prefix"]["fewer_tokens_read"],
        "prefix_speedup": found["prefix"]["one_by_one"] / found["prefix"]["seconds"],
    }


def flips(model: str, quantization: str, dtype: str) -> float:
    """Of the tokens written by eight rows together, the share that comes out otherwise when each row is alone, counted
    up to a row's first such token: what follows it is another text."""
    backbone = Backbone(BackboneConfig(model=model, quantization=quantization, compute_dtype=dtype))  # type: ignore[arg-type]
    backbone.add_role("sft", seed=0)
    rows = requests(backbone, 8, CONTEXT, NEW, "flips")
    with Engine(backbone) as engine, engine.for_training():  # nothing is kept from call to call
        together = engine.generate(rows)
        alone = [engine.generate([row])[0] for row in rows]
    same = flipped = 0
    for a, b in zip(together, alone, strict=True):
        first = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y), None)
        flipped += first is not None
        same += len(a.ids) if first is None else first
    return flipped / (same + flipped)


def lines(found: Json) -> list[str]:
    head = ["rows", "generate", "engine", "unmerged", "forward alone", "linears alone", "engine / linears", "speed-up"]
    out = [f"milliseconds per step, {found['dtype']}, {found['threads']} threads, context {CONTEXT} + {NEW} tokens", ""]
    out += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for cell in found["decode"]:
        times = [cell[key] for key in ("generate", "engine", "engine_unmerged", "forward", "linears")]
        ratios = [cell["engine"] / cell["linears"], cell["generate"] / cell["engine"]]
        cells = [str(cell["rows"]), *(f"{1000 * t:.0f}" for t in times), *(f"{r:.2f}" for r in ratios)]
        out.append(f"| {' | '.join(cells)} |")
    peers = ("speedup_vs_chathuggingface", "speedup_vs_smolagents", "overhead_share")
    return [
        *out,
        *(f"{key}: {found[key]:.2f}" for key in peers if key in found),
        "",
        f"eight branches cost {found['branches8_over_1']:.2f} of one",
        "tokens that flip between eight rows together and each alone: "
        + ", ".join(f"{name} {100 * share:.2f} %" for name, share in found["flip_rate"].items()),
        f"{SIBLINGS} rows of one prompt of {LONG} tokens: {found['prefix_tokens']:.1f} times fewer tokens read, "
        f"{found['prefix_speedup']:.1f} times faster than one by one",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the table")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="without ChatHuggingFace and smolagents")
    given = parser.parse_args()
    found = measure(given.model, given.repeats, lambda text: print(text, file=sys.stderr, flush=True))
    kinds = {"float32": ("none", "float32"), "bfloat16": ("none", "bfloat16"), "nf4": ("nf4", "bfloat16")}
    found["flip_rate"] = {name: flips(given.model, *kind) for name, kind in kinds.items()}
    if not given.no_peers:
        from benchmarks.engine_peers import measure as measure_peers

        found |= measure_peers(given.repeats)
    print(json.dumps(found, indent=1) if given.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()

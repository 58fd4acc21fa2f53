"""Fifty clients for two minutes against ``junto serve --api`` on the embedded model. Run by ``make soak``."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import openai
import pytest

from graphs.server.models import opened
from tests.graphs.server.conftest import served

CLIENTS = 50
SECONDS = 120.0
QUESTIONS = (  # and how long the answers may be: long ones among short ones
    *((f"Name something that is {colour}.", 8) for colour in ("red", "blue", "green", "white", "black")),
    ("Tell me a story about a lighthouse.", 120),
    ("What is a reward model?", 40),
    ("Count from one to ten.", 30),
)


def answered(url: str, question: str, tokens: int) -> tuple[str, int]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=20, timeout=600)
    reply = client.chat.completions.create(
        model="embedded", messages=[{"role": "user", "content": question}], max_tokens=tokens, temperature=0
    )
    assert reply.usage is not None
    return reply.choices[0].message.content or "", reply.usage.completion_tokens


@pytest.mark.soak
def test_nobody_is_given_somebody_elses_answer(tmp_path: Path) -> None:
    with opened(["embedded"], tmp_path) as models, served(models, tmp_path) as site:
        began = time.monotonic()
        alone = {question: answered(site.url, question, tokens) for question, tokens in QUESTIONS}
        single = sum(tokens for _, tokens in alone.values()) / (time.monotonic() - began)
        assert len({text for text, _ in alone.values()}) >= 6  # answers that can be told apart
        wrong: list[str] = []
        counts: list[int] = []
        end = time.monotonic() + SECONDS

        def client(seed: int) -> None:
            draw = random.Random(seed)
            while time.monotonic() < end:
                question, tokens = draw.choice(QUESTIONS)
                try:
                    found = answered(site.url, question, tokens)
                except Exception as error:
                    wrong.append(f"{type(error).__name__}: {error}")
                    return
                counts.append(found[1])
                if found != alone[question]:
                    wrong.append(f"{question} {found[0]!r} and not {alone[question][0]!r}")

        together = time.monotonic()
        run([threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)])
        rate = sum(counts) / (time.monotonic() - together)
    print(f"{len(counts)} answers to {CLIENTS} clients, {rate:.0f} tokens a second; one client alone: {single:.0f}")
    assert wrong == [] and len(counts) >= CLIENTS


def run(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

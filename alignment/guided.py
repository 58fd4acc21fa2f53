"""Value-based control: the critic, which PPO would throw away, chooses among continuations while a text is written.

At each step k continuations are sampled up to a stop string, and the one with the highest value goes on. A value
model estimates the return of what is yet to come, so that it can judge an unfinished text; a reward model is trained
on whole ones. With one step and no stop it is best-of-k among whole responses. Value-guided beam search over
pieces of text: Liu et al. 2023 (arXiv 2309.15028, PPO-MCTS), Mudgal et al. 2023 (arXiv 2310.17022, blockwise
controlled decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignment.decoding import Prompt, Request
from alignment.engine import Engine


@dataclass(frozen=True)
class Choice:
    """The text that was chosen, its score by whatever chose last, and every token that was written for it or read by
    the judge, who reads a text from its beginning each time."""

    text: str
    score: float
    tokens: int
    ended: bool  # by the model itself


def guided(
    engine: Engine,
    prompts: Sequence[Prompt],
    k: int,
    steps: int,
    max_tokens: int,
    temperature: float,
    seed: str,
    stop: tuple[str, ...] = ("\n",),
    role: str = "policy",
    judge: str = "value",
) -> list[Choice]:
    """Writes up to ``steps`` pieces, each the best of ``k`` by the head ``judge``; all prompts go on together.

    ``max_tokens`` per piece. Best-of-k by reward: ``steps=1, stop=(), judge="reward"``. Raises SetupError when the
    model has no such head.
    """
    found = [Choice("", 0.0, 0, False) for _ in prompts]
    for step in range(steps):
        going = [i for i, choice in enumerate(found) if not choice.ended]
        if not going:
            break
        requests = [
            Request(
                prompts[i],
                prefix=found[i].text,
                role=role,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=f"{seed}/{i}/{step}/{j}",
                stop=stop,
            )
            for i in going
            for j in range(k)
        ]
        written = engine.generate(requests)
        texts = [request.prefix + done.text for request, done in zip(requests, written, strict=True)]
        values = engine.score([request.prompt for request in requests], texts, role=judge)
        for place, i in enumerate(going):
            own = range(place * k, (place + 1) * k)
            best = max(own, key=lambda j: values[j])
            spent = sum(written[j].tokens + len(engine.backbone.chat.text_ids(texts[j])) for j in own)
            found[i] = Choice(texts[best], values[best], found[i].tokens + spent, written[best].finish == "eos")
    return found

"""A subject as a model of lm-evaluation-harness, so that its tasks run on a run's roles (the extra ``harness``).

    from lm_eval import simple_evaluate
    with harness_model("game24:sft") as model:
        simple_evaluate(model=model, tasks=["my_task"], task_manager=TaskManager(include_path="my_tasks"))

Texts are tokenized here and never read as control tokens. What the harness makes of chats is a string, so a chat that
``apply_chat_template`` has rendered is recognized, and its messages are encoded as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from alignment.decoding import Request
from alignment.perplexity import windows
from graphs.evaluation.answers import encoded_pair, first_id, window_of, without_stop
from graphs.evaluation.subject import Subject, opened

MAX_TOKENS = 256  # the harness's own limit where a task names none


@contextmanager
def harness_model(name: str, runs_root: Path = Path("runs")) -> Iterator[HarnessModel]:
    """The model that ``junto eval run --model`` would take by that name; closed at the end."""
    with opened([name], runs_root) as subject_of:
        yield HarnessModel(subject_of(name))


class HarnessModel(LM):
    """``loglikelihood``, ``loglikelihood_rolling`` and ``generate_until`` over the engine. What is too long loses its
    beginning, as in the harness's own model."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject, self.engine = subject, subject.here
        self._chats: dict[str, list[dict[str, str]]] = {}

    @property
    def tokenizer_name(self) -> str:
        """Part of the harness's keys for what it caches: another model has another one."""
        return json.dumps(self.subject.about, sort_keys=True)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return getattr(self.engine.backbone.tokenizer, "chat_template", None) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        rendered = json.dumps(chat_history, ensure_ascii=False)
        self._chats[rendered] = chat_history
        return rendered

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        rows, starts = [], []
        for context, continuation in (request.args for request in requests):
            before, after = self._pair(context, continuation)
            row = (before + after)[-window_of(self.engine) - 1 :]
            rows.append(row)
            starts.append(max(1, len(row) - len(after)))
        found = self.engine.likelihoods(rows, starts, self.subject.role)
        return [(one.total, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        chat, length = self.engine.backbone.chat, window_of(self.engine)
        of_each = [windows(chat.text_ids(r.args[0]), length, prefix=first_id(chat)) for r in requests]
        flat = [window for own in of_each for window in own]
        found = iter(self.engine.likelihoods([w.ids for w in flat], [w.start for w in flat], self.subject.role))
        return [sum(next(found).total for _ in own) for own in of_each]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        asked = [self._request(*request.args) for request in requests]
        return [
            without_stop(done.text, request.stop)
            for request, done in zip(asked, self.engine.generate(asked), strict=True)
        ]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return encoded_pair(self.engine.backbone.chat, self._chats.get(context, context), continuation)

    def _request(self, context: str, settings: dict[str, Any]) -> Request:
        tokens = int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or MAX_TOKENS)
        stop = settings.get("until") or ()
        messages = self._chats.get(context)
        return Request(
            messages or [],
            prefix="" if messages else self._cut(context, window_of(self.engine) - tokens),
            role=self.subject.role,
            max_tokens=tokens,
            temperature=float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=context,
        )

    def _cut(self, text: str, room: int) -> str:
        chat = self.engine.backbone.chat
        ids = chat.text_ids(text)
        return text if len(ids) <= room else chat.text(ids[-room:])

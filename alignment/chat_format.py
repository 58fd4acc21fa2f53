"""The one place that renders a chat template. What a user or a model wrote never becomes a control token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

Message = dict[str, str]


class ChatFormat:
    """Messages to token ids by the tokenizer's own chat template.

    The template is rendered around placeholders; what it writes itself is encoded with its control tokens, the
    contents between are encoded as plain text. So ``<|im_end|>`` typed by a user stays eight letters and signs,
    and a prompt's ids are a prefix of the ids of prompt and response.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # whether control tokens are read is state of the tokenizer that each call sets, and callers come on threads
        self._lock = threading.Lock()
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id

    def prompt_ids(self, messages: Sequence[Message], drop: int = 0) -> list[int]:
        """Ids of the messages and of the header after which the assistant writes; no messages, no ids.

        ``drop`` tokens of the contents are left out, from the beginning on; what the template writes stays.
        """
        ids: list[int] = []
        for text, is_content in self._segments(messages) if messages else []:
            if not is_content:
                ids += self._template_ids(text)
                continue
            content = self.text_ids(text)
            ids += content[drop:]
            drop = max(0, drop - len(content))
        return ids

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text, nothing added and nothing read as a control token."""
        with self._lock:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids if text else []

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without control tokens, spaces as they are."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _template_ids(self, text: str) -> list[int]:
        with self._lock:
            return self.tokenizer(text, add_special_tokens=False).input_ids

    def _segments(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        if not getattr(self.tokenizer, "chat_template", None):  # a base model: plain paragraphs
            return [pair for m in messages for pair in ((m["content"], True), ("\n\n", False))]
        # private-use characters, absent from any template, mark where the contents stand
        marked = [{**m, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        rendered = self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
        parts: list[tuple[str, bool]] = []
        for chunk in rendered.split("\ue000"):
            number, found, rest = chunk.partition("\ue001")
            if found:
                parts.append((messages[int(number)]["content"], True))
            parts.append((rest if found else chunk, False))
        return [(text, is_content) for text, is_content in parts if text]

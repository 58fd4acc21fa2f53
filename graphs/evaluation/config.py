"""An evaluation: one YAML file that says which questions are asked, how, and what is measured. Free of torch.

``kind`` decides what a model does with a row of ``data``:

- ``generate``: it writes after ``prompt``; the text is compared with ``target``;
- ``choice``: each of ``choices`` is read after ``prompt``, and the most likely one is the answer;
- ``text``: ``prompt`` itself is read, for its perplexity;
- ``pairs``: the reward model scores two answers, of which people chose one.

What a row becomes is said by templates (Jinja, in its sandbox) over the row's keys, ``"Q: {{ question }}\\nA:"``, or by
the name of a key, dotted where it lies deeper, ``answers.0``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from alignment.config import Settings
from graphs.recipe import usage_error
from graphs.source import Source

RIGHT = ("exact_match", "number", "contains", "solved")  # what a written text is, or is not
Kind = Literal["generate", "choice", "text", "pairs"]
METRICS = {
    "generate": ("exact_match", "number", "contains", "solved", "rouge", "bleu", "chrf", "reward"),
    "choice": ("accuracy", "accuracy_norm"),
    "text": ("perplexity",),
    "pairs": ("pair_accuracy",),
}


class Shots(Settings):
    """Solved examples before every question, the same ones for all."""

    n: int = Field(0, ge=0, description="examples")
    data: str | None = Field(None, description="their file; null: drawn from the questions' own, which lose them")
    seed: int = Field(0, ge=0, description="of drawing them")
    separator: str = Field("\n\n", description="between two of them")


class Rouge(Settings):
    """How texts are compared by ROUGE."""

    parts: list[Literal["f", "precision", "recall"]] = Field(["f"], min_length=1, description="figures of each variant")
    beta: float = Field(1.0, gt=0, description="weight of recall in F")
    stem: bool = Field(False, description="whether words are stemmed (English; Porter)")


class Bleu(Settings):
    """sacrebleu's settings, which its signature names."""

    tokenize: Literal["13a", "intl", "char", "none", "zh"] = Field("13a", description="tokenizer")
    smooth: Literal["exp", "floor", "add-k", "none"] = Field("exp", description="smoothing of orders without a hit")
    lowercase: bool = Field(False, description="whether letters are made small")


class Chrf(Settings):
    """sacrebleu's settings, which its signature names."""

    word_order: int = Field(0, ge=0, description="of word n-grams beside those of characters; 2 is chrF++")


# what samples do not hang on: it can be changed when they are there
SCORING = ("metrics", "pass_at", "extract", "rouge", "bleu", "chrf")


class Evaluation(Settings):
    """What is asked and measured."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="name of the evaluation: lower-case letters, digits, - and _; its folder is called so",
    )
    kind: Kind = Field(description="generate, choice, text or pairs")
    data: str | dict[str, str] = Field(
        description="file of rows (.jsonl, .json, .txt for one text, any of them .gz), or one per split"
    )
    split: str = Field("test", description="which of the files; a single file is whatever split it is called")
    prompt: str = Field("{{ prompt }}", description="template or key of the question, the context or the text")
    target: str | None = Field(None, description="template or key of the right answer, or of a list of such")
    choices: str | list[str] | None = Field(
        None, description="list of templates, or key of a list of answers, or of an object that labels them 1 and 0"
    )
    answer: str | None = Field(
        None, description="template or key of the right choice: its number from 0, or its text; null: it is labelled"
    )
    delimiter: str = Field(" ", description="between plain text and the answer that follows it")
    chosen: str = Field("{{ chosen }}", description="template or key of the answer of a pair that people chose")
    rejected: str = Field("{{ rejected }}", description="template or key of the other one")
    chat: bool = Field(True, description="whether the prompt is a user's message, or plain text to go on with")
    system: str = Field("", description="system text before a user's message; empty: none")
    shots: Shots = Shots()
    samples: int = Field(1, ge=1, description="texts written for each question, by different seeds")
    temperature: float = Field(0.0, ge=0, description="of writing; 0 is greedy")
    max_tokens: int = Field(128, ge=1, description="tokens per text")
    stop: list[str] = Field(default_factory=list, description="strings that end a text, and are left out of it")
    extract: str | None = Field(
        None, description="regular expression whose last match in the text, or first group of it, is the answer"
    )
    metrics: list[str] = Field(default_factory=list, description="what is measured; empty: what the kind offers")
    pass_at: list[int] = Field(default_factory=list, description="k of pass@k, by the first metric")
    rouge: Rouge = Rouge()
    bleu: Bleu = Bleu()
    chrf: Chrf = Chrf()
    window: int | None = Field(None, ge=2, description="tokens of a text read at once; null: all the model takes")
    stride: int | None = Field(None, ge=1, description="tokens scored in each later window; null: all of it")
    prefix: Literal["bos", "none"] = Field("bos", description="what stands before a text: its first token needs it")

    @model_validator(mode="after")
    def _complete(self) -> Evaluation:
        if self.kind == "generate" and self.target is None and not {*self.measured} <= {"solved", "reward"}:
            raise ValueError('a "generate" evaluation needs the "target" of its texts, or metrics: [reward]')
        if self.kind == "choice" and self.choices is None:
            raise ValueError('a "choice" evaluation needs "choices"')
        unknown = sorted(set(self.metrics) - set(METRICS[self.kind]))
        if unknown:
            known = ", ".join(METRICS[self.kind])
            raise ValueError(f'a "{self.kind}" evaluation has no metric {", ".join(unknown)}; it has {known}')
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(f"pass@{max(self.pass_at)} needs as many samples, and samples is {self.samples}")
        if self.pass_at and (min(self.pass_at) < 1 or not {*self.measured} & {*RIGHT}):
            raise ValueError(f"pass_at needs numbers from 1 on, and one of the metrics {', '.join(RIGHT)}")
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise ValueError(f"extract is no regular expression: {error}") from None
        if isinstance(self.data, dict) and self.split not in self.data:
            raise ValueError(f'there is no split "{self.split}"; data has {", ".join(self.data)}')
        return self

    @property
    def measured(self) -> list[str]:
        """The metrics, in order."""
        usual = {"generate": ["exact_match"], "choice": ["accuracy", "accuracy_norm"]}
        return self.metrics or usual.get(self.kind) or list(METRICS[self.kind])


def load_evaluation(path: Path, overrides: Any = ()) -> Evaluation:
    """Reads ``path`` and applies ``a.b=value`` overrides. Raises UsageError."""
    source = Source(path, "evaluation")
    for assignment in overrides:
        source.override(assignment)
    try:
        found = Evaluation.model_validate({key: value for key, value in source.data.items() if value is not None})
    except ValidationError as error:
        raise usage_error(source, Evaluation, (), error) from None
    return found

"""From samples to scores, and from scores to figures with intervals. Nothing here asks a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignment import rouge, text_metrics
from alignment.perplexity import Document, figures
from alignment.reward_metrics import pair_results
from alignment.statistics import Interval, bootstrap, share
from graphs.evaluation.config import Evaluation
from graphs.tasks import Row

Check = Callable[[str, str], bool | None]

RIGHT_OR_WRONG = ("exact_match", "number", "contains", "solved", "accuracy", "accuracy_norm", "pair_accuracy")


def scored(evaluation: Evaluation, item: Row, sample: Row, check: Check | None = None) -> dict[str, Any]:
    """The metrics of one sample, those of a whole corpus aside: true or false, or a number. A sample that ended in an
    error has none."""
    if "error" in sample:
        return {}
    if evaluation.kind == "choice":
        values = np.array(sample["loglikelihoods"])
        by_length = values / np.array([len(choice) for choice in item["choices"]])
        # argmax takes the first of equal ones, as lm-evaluation-harness does
        return {
            "accuracy": int(values.argmax()) == item["answer"],
            "accuracy_norm": int(by_length.argmax()) == item["answer"],
        }
    if evaluation.kind == "pairs":
        return {"pair_accuracy": sample["rewards"][0] > sample["rewards"][1]}
    if evaluation.kind == "text":
        return {}
    text = extracted(evaluation, sample["text"])
    found: dict[str, Any] = {}
    for metric in evaluation.measured:
        if metric == "solved":
            assert check is not None
            found["solved"] = bool(check(item["question"], sample["text"]))
        elif metric == "rouge":
            # rougeLsum is a union over lines, and without sentences on lines of their own it is rougeL
            how = evaluation.rouge
            tokenize = rouge.stemmed_words if how.stem else rouge.words
            targets = [sentences(target) for target in item["targets"]]
            scores = rouge.rouge(sentences(text), targets, tokenize=tokenize, beta=how.beta)
            found |= {
                name if part == "f" else f"{name}_{part}": getattr(score, part)
                for name, score in scores.items()
                for part in how.parts
            }
        elif metric in OF_TEXT:
            found[metric] = OF_TEXT[metric](text, item["targets"])
        elif metric == "reward" and "reward" in sample:
            found["reward"] = sample["reward"]
    return found


def extracted(evaluation: Evaluation, text: str) -> str:
    """The answer in a text: the last match of ``extract``, or its first group; empty where there is none."""
    if evaluation.extract is None:
        return text.strip()
    matches = list(re.finditer(evaluation.extract, text))
    if not matches:
        return ""
    last = matches[-1]
    return (last[1] if last.re.groups else last[0]) or ""


def sentences(text: str) -> str:
    """The text with every sentence on a line of its own."""
    return re.sub(r"(?<=[.!?])[\"')\]”’]*\s+", lambda gap: gap[0].rstrip() + "\n", text.strip())


def same_number(text: str, targets: Sequence[str]) -> bool:
    """Whether the last number of the text is that of a target: 1,000 is 1000 and 1000.0."""
    found = last_number(text)
    return found is not None and found in [last_number(target) for target in targets]


def last_number(text: str) -> float | None:
    return next(reversed(text_metrics.numbers(text)), None)


OF_TEXT: dict[str, Callable[[str, Sequence[str]], bool]] = {
    "exact_match": text_metrics.exact_match,
    "number": same_number,
    "contains": lambda text, targets: any(target.strip() and target.strip() in text for target in targets),
}
CORPUS: dict[str, Callable[..., Any]] = {"bleu": text_metrics.bleu_metric, "chrf": text_metrics.chrf_metric}


def aggregated(evaluation: Evaluation, items: Sequence[Row], samples: Sequence[Row], scores: Sequence[Row]) -> Row:
    """Figures of an evaluation: ``metrics`` by name, each with its interval over items, and counts. Samples of one item
    are averaged before; those with errors are left out, and counted."""
    sound = [sample for sample in samples if "error" not in sample]
    found: Row = {"n": len({sample["id"] for sample in samples}), "samples": len(samples)}
    found["errors"] = len(samples) - len(sound)
    found["tokens"] = sum(sample.get("tokens", 0) for sample in sound)
    metrics: dict[str, Any] = {}
    if not sound:
        return found | {"metrics": metrics}
    names = list(dict.fromkeys(name for score in scores for name in score if name not in ("id", "sample")))
    for name in names:
        metrics[name] = _mean([score for score in scores if name in score], name)
    if evaluation.kind == "text":
        documents = [Document(*(sample[key] for key in Document._fields)) for sample in sound]
        metrics |= figures(documents) if any(one.tokens for one in documents) else {}
    if evaluation.kind == "pairs":
        chosen, rejected = zip(*(sample["rewards"] for sample in sound), strict=True)
        lengths = [sample["lengths"][side] for side in (0, 1) for sample in sound]
        metrics |= pair_results(chosen, rejected, lengths)
    if evaluation.kind == "generate":
        for name in CORPUS:
            if name in evaluation.measured:
                metrics[name] = text_metrics.corpus_interval(corpus_statistics(evaluation, name, items, sound))
        metrics["length"] = bootstrap(list(by_item(sound, "tokens").values()))
        for k in evaluation.pass_at:
            if each := pass_at(scores, k):
                metrics[f"pass@{k}"] = share(list(each.values()))
    return found | {"metrics": metrics}


def corpus_statistics(
    evaluation: Evaluation, name: str, items: Sequence[Row], samples: Sequence[Row]
) -> text_metrics.Statistics:
    """What BLEU or chrF of the sound samples is computed from, by item."""
    targets = {item["id"]: item.get("targets", []) for item in items}
    metric = CORPUS[name](**getattr(evaluation, name).model_dump())
    texts = [extracted(evaluation, sample["text"]) for sample in samples]
    ids = [sample["id"] for sample in samples]
    return text_metrics.statistics(metric, texts, [targets[one] for one in ids], ids)


def pass_at(scores: Sequence[Row], k: int) -> dict[str, float]:
    """pass@k of each item that has as many samples."""
    right = counted_by(scores)
    counts: dict[str, list[bool]] = {}
    for score in scores:
        if right in score:  # not where the sample failed
            counts.setdefault(score["id"], []).append(bool(score[right]))
    return {
        key: text_metrics.pass_at_k(len(values), sum(values), k) for key, values in counts.items() if len(values) >= k
    }


def counted_by(scores: Sequence[Row]) -> str | None:
    """The metric of pass@k: the first that is right or wrong."""
    return next((name for score in scores for name in score if name in RIGHT_OR_WRONG), None)


def by_item(scores: Sequence[Row], name: str) -> dict[str, float]:
    """The mean of a metric over the samples of each item."""
    found: dict[str, list[float]] = {}
    for score in scores:
        if name in score:
            found.setdefault(score["id"], []).append(float(score[name]))
    return {key: float(np.mean(values)) for key, values in found.items()}


def _mean(scores: Sequence[Row], name: str) -> Interval:
    each = list(by_item(scores, name).values())
    return share(each) if name in RIGHT_OR_WRONG else bootstrap(each)

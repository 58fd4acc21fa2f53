"""LimeTextExplainer, captum's LIME and alibi's AnchorText over a Hugging Face pipeline, for ``benchmarks.explain``.

The pipeline is what their users write, ``text-classification`` with ``function_to_apply="none"`` over
AutoModelForSequenceClassification; its decoder is the very one that our engine scores with, the adapter beside the
weights, and its head ours. The attention is sdpa, the fastest that it has. All get the units that we get: the split of
LIME, the tokens of spaCy, the tokens of a unit for captum. captum is not declared by the project: ``pip install
--no-deps captum``. AnchorText writes UNK in the place of a unit, the others remove it.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignment.backbone import Backbone
from alignment.machine import return_freed_memory
from benchmarks.explain_errors import SAMPLES, in_order
from explain.anchors import PRECISION, precisions
from explain.masks import all_masks, draw_masks, lime_distances, lime_kernel
from explain.units import Units

Prompt = list[dict[str, str]]
Score = Callable[[list[str]], list[float]]  # rewards of answers to the prompt


# -- what is measured -------------------------------------------------------------------------------------


@dataclass
class Meter:
    """Of one measurement: seconds, those of them inside forwards, forwards, tokens that an attention mask of two
    dimensions says are no padding, and MB of the peak above the start."""

    seconds: float = 0.0
    inside: float = 0.0
    forwards: int = 0
    tokens: int = 0
    peak_mb: float | None = None


@contextmanager
def metered(backbone: Backbone, start: int | None = None) -> Iterator[Meter]:
    """Forwards are those of the decoder, whoever calls it. ``start``: bytes that the peak is counted from, where that
    is not what is resident now."""
    meter, began = Meter(), [0.0]

    def before(module: Any, given: Any, named: dict[str, Any]) -> None:
        began[0] = time.perf_counter()

    def after(module: Any, given: Any, named: dict[str, Any], out: Any) -> None:
        meter.inside += time.perf_counter() - began[0]
        meter.forwards += 1
        mask = named.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            meter.tokens += int(mask.sum())

    decoder = backbone.causal_lm.get_decoder()
    hooks = [
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after, with_kwargs=True),
    ]
    now = forget_peak()
    start = now if start is None else start
    began_all = time.perf_counter()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - began_all
        peak = resident()
        meter.peak_mb = None if start is None or peak is None else (peak["VmHWM"] - start) / 2**20
        for hook in hooks:
            hook.remove()


def resident() -> dict[str, int] | None:
    """Bytes: the resident set now (``VmRSS``), its peak (``VmHWM``). None where the system does not say."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    lines = path.read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def forget_peak() -> int | None:
    """Lets the peak count from here; bytes that are resident now."""
    return_freed_memory()
    if resident() is None:
        return None
    Path("/proc/self/clear_refs").write_text("5")
    return (resident() or {})["VmRSS"]


# -- the model as the peers see it ------------------------------------------------------------------------


@contextmanager
def pipelines(backbone: Backbone, role: str) -> Iterator[Any]:
    """A function from a batch size to a pipeline of the role's rewards; inside, the role is entered."""
    from transformers import AutoModelForSequenceClassification, pipeline

    config = copy.deepcopy(backbone.causal_lm.config)
    config.num_labels, config.pad_token_id = 1, backbone.chat.pad_id
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    setattr(model, model.base_model_prefix, backbone.causal_lm.get_decoder())
    gain, bias = backbone.scales[role]
    head = copy.deepcopy(backbone.heads[role])
    with torch.no_grad():
        head.weight.mul_(gain)
        head.bias.mul_(gain).add_(bias)
    model.score = head
    usual = backbone.causal_lm.config._attn_implementation
    backbone.causal_lm.set_attn_implementation("sdpa")
    try:
        with backbone.role(role), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield lambda batch: pipeline(
                "text-classification",
                model=model.eval(),
                tokenizer=backbone.tokenizer,
                function_to_apply="none",
                batch_size=batch,
            )
    finally:
        backbone.causal_lm.set_attn_implementation(usual)


def predictor(pipe: Any, backbone: Backbone, prompt: Prompt) -> Score:
    """Rewards of answers by the pipeline, which reads the prompt before each of them."""
    before = backbone.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return lambda answers: [found["score"] for found in pipe([before + answer.rstrip() for answer in answers])]


# -- the peers --------------------------------------------------------------------------------------------


def lime_text(score: Score, units: Units, samples: int, seed: int) -> np.ndarray:
    """float[d]: LimeTextExplainer's weights at its defaults, but of all units, which are removed (its default for
    positions is to write UNKWORDZ)."""
    from lime.lime_text import LimeTextExplainer

    parts = [units[i] for i in range(len(units))]
    explainer = LimeTextExplainer(
        class_names=["reward"], split_expression=lambda text: parts, bow=False, mask_string="", random_state=seed
    )
    found = explainer.explain_instance(
        units.text,
        lambda texts: np.array(score(list(texts)))[:, None],
        labels=(0,),
        num_features=len(units),
        num_samples=samples,
    )
    return in_order(found.local_exp[0], len(units))


def captum_lime(d: int, reward: Callable[[torch.Tensor], torch.Tensor], samples: int, seed: int) -> np.ndarray:
    """float[d]: captum's LimeBase set up as its tutorial on text classification is, with masks as LIME draws them,
    LIME's kernel, and least squares; ``reward`` of one mask bool [1, d]."""
    from captum._utils.models.linear_model import SkLearnLinearRegression
    from captum.attr import LimeBase

    rng = np.random.default_rng(seed)

    def kernel(original: Any, perturbed: Any, mask: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.from_numpy(lime_kernel(lime_distances(mask.numpy())))

    explainer = LimeBase(
        reward,
        SkLearnLinearRegression(),
        similarity_func=kernel,
        perturb_func=lambda original, **_: torch.from_numpy(draw_masks(d, 1, rng)),
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda mask, original, **_: mask,
        to_interp_rep_transform=None,
    )
    found = explainer.attribute(torch.ones((1, d)), n_samples=samples, perturbations_per_eval=1)
    return found.flatten().double().numpy()


def captum_reward(pipe: Any, prompt_ids: list[int], unit_ids: Sequence[list[int]]) -> Any:
    """The reward of a mask bool [1, d] by the pipeline's model: the tokens of the units that are kept."""
    ids = torch.tensor([[*prompt_ids, *(token for unit in unit_ids for token in unit)]])
    owner = np.repeat(np.arange(len(unit_ids)), [len(unit) for unit in unit_ids])
    always = torch.ones(len(prompt_ids), dtype=torch.bool)

    def reward(mask: torch.Tensor) -> torch.Tensor:
        kept = ids[:, torch.cat([always, mask[0][torch.from_numpy(owner)]])]
        return pipe.model(input_ids=kept, attention_mask=torch.ones_like(kept)).logits[0, 0]

    return reward


@dataclass(frozen=True)
class Found:
    """What AnchorText found: the units (None where it was stopped), its estimate of their precision, and the texts that
    it asked for, in order."""

    units: tuple[int, ...] | None
    precision: float
    asked: list[str]
    seconds: float  # of AnchorText itself, without the model


class Enough(Exception):
    """AnchorText has asked for as many texts as it may."""


def anchor_text(score: Score, units: Units, tau: float, seed: int, most: int) -> Found:
    """AnchorText at its defaults, whether the reward reaches ``tau``; its text has one space between two units. It is
    stopped when it has asked for ``most`` texts."""
    import spacy
    from alibi.explainers.anchors.anchor_text import AnchorText
    from spacy.tokens import Doc

    nlp = spacy.blank("en")
    # or it looks for a package of word frequencies, which this strategy never reads
    nlp.vocab.lookups.add_table("lexeme_prob", {})
    parts = [units[i].strip() for i in range(len(units))]
    nlp.tokenizer = lambda text: Doc(nlp.vocab, words=parts)  # type: ignore[assignment]
    asked: list[str] = []
    inside = 0.0

    def decide(texts: Any) -> np.ndarray:
        nonlocal inside
        if len(asked) >= most:
            raise Enough
        began = time.perf_counter()
        asked.extend(map(str, texts))
        decided = (np.array(score([str(text) for text in texts])) >= tau).astype(int)
        inside += time.perf_counter() - began
        return decided

    kept, precision = None, 0.0
    began = time.perf_counter()
    with warnings.catch_warnings(), suppress(Enough):
        warnings.simplefilter("ignore")
        explainer = AnchorText(decide, sampling_strategy="unknown", nlp=nlp, seed=seed)
        found = explainer.explain(" ".join(parts), threshold=PRECISION)
        kept = tuple(sorted(int(unit) for unit in found.data["raw"]["feature"]))
        precision = float(np.ravel(found.data["precision"])[0])
    return Found(kept, precision, asked, time.perf_counter() - began - inside)


def unknown(units: Units, mask: np.ndarray) -> str:
    """AnchorText's text of a mask."""
    return " ".join(units[i].strip() if kept else "UNK" for i, kept in enumerate(mask))


def anchor_precision(score: Score, units: Units, tau: float, kept: Sequence[int]) -> float:
    """The exact precision of AnchorText's anchor among its own texts, all of which are scored."""
    d = len(units)
    decided = np.array(score([unknown(units, mask) for mask in all_masks(d)])) >= tau
    return float(precisions((decided == decided[0])[::-1])[sum(1 << unit for unit in kept)])


def captum_of_masks(
    d: int, reward: Callable[[np.ndarray], np.ndarray], seed: int, samples: int = SAMPLES
) -> np.ndarray:
    """float[d]: captum's weights for a reward of masks that remembers what it was asked: all at once, then one by one
    as captum asks."""
    rng = np.random.default_rng(seed)
    reward(np.concatenate([draw_masks(d, 1, rng) for _ in range(samples)]))
    return captum_lime(d, lambda mask: torch.from_numpy(reward(mask.numpy()))[0], samples, seed)

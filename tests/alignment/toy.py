"""A language of eight tokens and at most three of them, small enough to add up over every response."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.backbone import Backbone
from alignment.batch import pad
from alignment.config import BackboneConfig, LoraSettings
from alignment.decoding import Prompt
from alignment.rollout import response_logprobs

WORDS = ("</s>", "a", "b", "c", "d", "e", "f", "g")
LENGTH = 3
BETA = 0.08
PROMPT = [{"role": "user", "content": "a"}]
ROW = {"id": "a", "question": "a", "prompt": PROMPT}
# every response: cut at three tokens, or ended before by the end-of-text token
RESPONSES = [
    ids
    for length in (1, 2, 3)
    for ids in itertools.product(range(8), repeat=length)
    if 0 not in ids[:-1] and (length == LENGTH or ids[-1] == 0)
]


def reward(text: str) -> float:
    """1 for "b d f"; a share of it for each word in its place, more where the places before are right as well."""
    found = text.split()
    right = [i < len(found) and found[i] == word for i, word in enumerate(("b", "d", "f"))]
    return (sum(right) + all(right[:2]) + all(right)) / 5


def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    return [reward(text) for text in texts]


def make(folder: Path, seed: int) -> Backbone:
    """A two-layer Llama with random weights in float32 and its ``sft`` role, which is the base itself."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    # no adapter sits on the output layer: it must let the policy be as sure as the optimum is, of any token
    torch.nn.init.orthogonal_(model.lm_head.weight, gain=1.2)
    model.save_pretrained(folder)
    settings = BackboneConfig(
        model=str(folder), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=32, alpha=32)
    )
    backbone = Backbone(settings)
    backbone.add_role("sft", seed=seed)
    return backbone


def distribution(backbone: Backbone, role: str) -> torch.Tensor:
    """log p of every response, float64 [400]: they add up to 1."""
    prompt = backbone.chat.prompt_ids(PROMPT)
    ids, mask = pad([[*prompt, *response] for response in RESPONSES], 0)
    response = mask[:, len(prompt) :].bool()
    with backbone.role(role), torch.no_grad():
        logp, _ = response_logprobs(backbone, ids, mask, response, 1.0)
    return logp.double().sum(-1)


def objective(backbone: Backbone, role: str) -> float:
    """J = E[r] - beta KL(pi || ref), exactly."""
    logp, ref = distribution(backbone, role), distribution(backbone, "sft")
    return float((logp.exp() * (rewards(backbone) - BETA * (logp - ref))).sum())


def optimum(backbone: Backbone) -> float:
    """J* = beta log E_ref[exp(r / beta)]: the maximum over all policies (Ziegler et al. 2019, Rafailov et al. 2023)."""
    ref = distribution(backbone, "sft")
    return BETA * float(torch.logsumexp(ref + rewards(backbone) / BETA, 0))


def rewards(backbone: Backbone) -> torch.Tensor:
    return torch.tensor([reward(backbone.chat.text(ids)) for ids in RESPONSES], dtype=torch.float64)


def gap_closed(backbone: Backbone) -> float:
    """(J - J_ref) / (J* - J_ref); 1 is the optimum. The gap is at least 0.3, or the measure would say little."""
    start, best = objective(backbone, "sft"), optimum(backbone)
    assert best - start >= 0.3 and math.isclose(distribution(backbone, "sft").exp().sum().item(), 1, abs_tol=1e-5)
    return (objective(backbone, "policy") - start) / (best - start)

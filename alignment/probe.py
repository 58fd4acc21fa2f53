"""How long a step will take: a few layers of the model's shape, with random weights, timed on this machine."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, SFTConfig
from alignment.estimate import Batch
from alignment.schedule import adamw
from alignment.shapes import read_config
from alignment.weights import DTYPES, load_causal_lm

SECONDS = 0.3  # of timing, for each of the four figures
LAYERS_BYTES = 2**28  # one layer alone could stay in the processor's cache
HEAD_ROWS = 8192  # of the output embedding that are timed; the product grows with their number


@dataclass(frozen=True)
class Rates:
    """Seconds. ``layer``: forward and backward of one layer for the batch; ``layer_forward``: without gradients;
    ``position``: logits, loss and their backward at one position; ``parameter``: AdamW for one trained parameter."""

    layer: float
    layer_forward: float
    position: float
    parameter: float
    layers: int  # of the whole model

    def step(self, parts: float, losses: float, trained: int) -> float:
        """A step of ``parts`` batches like the timed one with ``losses`` positions in all."""
        return parts * self.layers * self.layer + losses * self.position + trained * self.parameter

    def evaluation(self, batches: float, losses: float) -> float:
        """Held-out rows worth ``batches`` of the timed one; logits alone are a third of their two products' time."""
        return batches * self.layers * self.layer_forward + losses * self.position / 3


def probe(config: BackboneConfig, sft: SFTConfig, batch: Batch) -> Rates:
    """Times ``batch`` on a model of a few layers and a small vocabulary, tuned as ``sft`` says."""
    whole = read_config(config.model).get_text_config()
    backbone = _few_layers(config, sft.method == "full")
    timed = backbone.causal_lm.config.num_hidden_layers
    if sft.method != "full":
        backbone.add_role("sft", seed=0, tokens=sft.virtual)
    role = "base" if sft.method == "full" else "sft"
    ids = torch.zeros((batch.rows, batch.tokens), dtype=torch.long, device=backbone.device)
    mask = torch.ones_like(ids)

    def forward() -> torch.Tensor:
        if batch.packed:
            return backbone.hidden_packed(ids, torch.arange(batch.tokens, device=ids.device).expand_as(ids))
        return backbone.hidden(ids, mask).last_hidden_state

    def both() -> None:
        with backbone.compute():
            states = forward()
        states.sum().backward()

    with backbone.role(role, train=True, checkpointing=sft.gradient_checkpointing):
        layer = _seconds(both) / timed
        parameters = backbone.parameters(role)
        optimizer = adamw(parameters, sft.learning_rate)
        update = _seconds(optimizer.step) / sum(p.numel() for p in parameters)
    with backbone.role(role), torch.no_grad(), backbone.compute():
        alone = _seconds(forward) / timed
    position = _position(config, whole.hidden_size, whole.vocab_size, str(backbone.device))
    return Rates(layer, alone, position, update, whole.num_hidden_layers)


def probe_decoding(config: BackboneConfig, rows: int, context: int) -> float:
    """Seconds of a layer for one more token of each of ``rows`` after ``context`` tokens, with a LoRA adapter."""
    backbone = _few_layers(config, master_weights=False)
    backbone.add_role("sft", seed=0)
    ids = torch.zeros((rows, context), dtype=torch.long, device=backbone.device)
    cache = DynamicCache(config=backbone.causal_lm.config)
    with torch.no_grad(), backbone.role("sft"):
        backbone.hidden(ids, torch.ones_like(ids), cache)

        def one() -> None:
            backbone.hidden(ids[:, :1], torch.ones((rows, cache.get_seq_length() + 1), dtype=torch.long), cache)

        return _seconds(one) / backbone.causal_lm.config.num_hidden_layers


def _few_layers(config: BackboneConfig, master_weights: bool) -> Backbone:
    small = copy.deepcopy(read_config(config.model))
    text = small.get_text_config()
    with torch.device("meta"):
        one = AutoModelForCausalLM.from_config(_cut(copy.deepcopy(text), 1))
    size = sum(p.numel() for p in one.get_decoder().layers.parameters())
    layers = max(1, min(4, text.num_hidden_layers, LAYERS_BYTES // (2 * size)))
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(_cut(text, layers), dtype=DTYPES[config.compute_dtype]).save_pretrained(folder)
        here = config.model_copy(update={"model": folder})
        return Backbone.around(here, load_causal_lm(here, torch.float32 if master_weights else None))


def _cut(text: object, layers: int) -> object:
    """The configuration with fewer layers and a vocabulary of 64."""
    kinds = getattr(text, "layer_types", None)
    changes = {"num_hidden_layers": layers, "vocab_size": 64, "pad_token_id": None, "bos_token_id": 1}
    for name, value in (changes | ({"layer_types": kinds[:layers]} if kinds else {})).items():
        setattr(text, name, value)
    return text


def _position(config: BackboneConfig, hidden: int, vocabulary: int, device: str) -> float:
    dtype, rows, count = DTYPES[config.compute_dtype], min(vocabulary, HEAD_ROWS), 128
    head = torch.randn(rows, hidden, dtype=dtype, device=device)
    states = torch.randn(count, hidden, dtype=dtype, device=device, requires_grad=True)
    place = torch.zeros((count, 1), dtype=torch.long, device=device)

    def loss() -> None:
        torch.nn.functional.linear(states, head).float().log_softmax(-1).gather(-1, place).sum().backward()

    return _seconds(loss) / count * vocabulary / rows


def _seconds(call: Callable[[], object]) -> float:
    """Median of the calls of ``SECONDS`` seconds, at least three after one that does not count."""
    call()
    found: list[float] = []
    while sum(found) < SECONDS or len(found) < 3:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]

"""One causal language model, loaded once, on which every role is an adapter.

``base`` is the model as it came. ``sft`` (frozen: the KL reference), ``policy``, ``value`` and ``reward`` are LoRA
adapters; a model tuned by virtual tokens (``alignment.virtual``) has ``sft`` alone. The scalar heads of ``reward``
and ``value`` are small float32 modules outside PEFT. Entering a role sets the adapter, the mode and
``requires_grad``, and restores them after. Run forward and backward inside one role: switching adapters before a
backward pass gives wrong gradients under gradient checkpointing, without an error.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import DynamicCache

from alignment import low_rank, virtual
from alignment.chat_format import ChatFormat
from alignment.config import BackboneConfig, LoraSettings, VirtualTokens
from alignment.errors import SetupError
from alignment.weights import DTYPES, fingerprint, int8_on_cpu, load_causal_lm, load_tokenizer

ROLES = ("sft", "reward", "policy", "value")
SCALAR_ROLES = ("reward", "value")
# there is no dropout here, so no random state to keep
CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": False}


class Backbone:
    """The model, its tokenizer, its roles and heads. One thread at a time is inside a role (a lock sees to it)."""

    def __init__(self, config: BackboneConfig, master_weights: bool = False) -> None:
        """``master_weights`` keeps the weights in float32 for training them; ``compute`` casts to the compute dtype."""
        self.lock = threading.RLock()
        self._load(config, master_weights)

    @classmethod
    def around(cls, config: BackboneConfig, causal_lm: Any) -> Backbone:
        """A backbone around a model that is there already, without tokenizer and fingerprint."""
        self = cls.__new__(cls)
        self.lock = threading.RLock()
        self._hold(config, causal_lm)
        return self

    def _load(self, config: BackboneConfig, master_weights: bool = False) -> None:
        self.tokenizer = load_tokenizer(config.model)
        self.chat = ChatFormat(self.tokenizer)
        self.sha256 = fingerprint(config.model)
        self._hold(config, load_causal_lm(config, torch.float32 if master_weights else None))

    def _hold(self, config: BackboneConfig, causal_lm: Any) -> None:
        self.config = config
        self.causal_lm = causal_lm  # without the adapters' wrapper, which ``model`` gets
        self.model: Any = causal_lm
        self.device = next(self.model.parameters()).device
        self.hidden_size: int = self.model.config.get_text_config().hidden_size
        # of the matrices that a token is multiplied with, the output embedding among them; no adapters
        self.linear_parameters = sum(
            layer.in_features * layer.out_features for layer in causal_lm.modules() if isinstance(layer, nn.Linear)
        )
        self.heads: dict[str, nn.Linear] = {}
        self.scales: dict[str, tuple[float, float]] = {}
        self.changes = 0  # of weights: what was computed from them before is of no use after
        self.virtual: dict[str, VirtualTokens] = {}  # of the roles that are trained tokens instead of LoRA
        self._entered = "base"
        self._mode(train=False)

    def rebase(self, model: str | Path) -> None:
        """Takes another base model, in the storage and dtype of the recipe; the roles are gone."""
        self.model = self.causal_lm = None
        gc.collect()  # two models are never in memory together
        self._load(self.config.model_copy(update={"model": str(model)}))

    @property
    def roles(self) -> tuple[str, ...]:
        """``base`` and the adapters that are there, those of other runs last."""
        there = getattr(self.model, "peft_config", {})
        return ("base", *(r for r in ROLES if r in there), *(r for r in there if r not in ROLES))

    def add_role(
        self,
        role: str,
        seed: int,
        copy_of: str | None = None,
        tokens: VirtualTokens | None = None,
        text: list[int] | None = None,
        lora: LoraSettings | None = None,
    ) -> None:
        """A new adapter: LoRA (of the recipe's size, or another's: ``lora``) with B = 0 and A random from ``seed``, or
        a copy of another role's adapter (and head); or virtual ``tokens`` that start as the tokens ``text``. Raises
        SetupError where both kinds would meet."""
        self.changes += 1
        there = self.roles[1:]
        if there and (tokens or self.virtual):
            raise SetupError(
                f"this model is tuned by {self.virtual[there[0]].kind} tokens, and PEFT cannot put other adapters on "
                f"it, so it cannot have the role {role!r}; train with sft.method: lora"
                if self.virtual
                else f"this model has LoRA adapters, and PEFT cannot put virtual tokens on it as {role!r}"
            )
        settings = virtual.encoder_config(tokens) if tokens else low_rank.adapter_config(lora or self.config.lora)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if there:
                self.model.add_adapter(role, settings)
            else:
                self.model = get_peft_model(self.model, settings, adapter_name=role)
            low_rank.attach(self.model, role)
            if role in SCALAR_ROLES:
                head = nn.Linear(self.hidden_size, 1, dtype=torch.float32, device=self.device)
                # standard deviation 1 / sqrt(d + 1): Stiennon et al. 2020 (arXiv 2009.01325), summarize-from-feedback
                nn.init.normal_(head.weight, std=(self.hidden_size + 1) ** -0.5)
                nn.init.zeros_(head.bias)
                self.heads[role] = head
                self.scales[role] = (1.0, 0.0)
        if tokens:
            self.virtual[role] = tokens
            if text:
                ids = virtual.real_tokens(text, tokens.count)
                self.set_weights(role, {"virtual": virtual.start_from(self.causal_lm, tokens.kind, ids)})
        if copy_of is not None:
            own = {name: value for name, value in self.weights(role).items() if name.startswith("head.")}
            self.set_weights(role, {k: v.clone() for k, v in (own | self.weights(copy_of)).items()})
            if role in self.heads and copy_of in self.heads:
                self.scales[role] = self.scales[copy_of]
        self._freeze()

    @contextmanager
    def role(self, role: str, train: bool = False, checkpointing: bool = False) -> Iterator[None]:
        """Inside, every forward is ``role``'s; with ``train`` its adapter and head take gradients, with
        ``checkpointing`` a layer keeps its input alone for the backward pass, which computes the rest again."""
        if role not in self.roles:
            raise SetupError(f"this model has no role {role!r}; it has {', '.join(self.roles)}")
        with self.lock:
            lora = len(self.roles) > 1 and not self.virtual
            if role == "base" and lora:
                self.model.base_model.disable_adapter_layers()
            elif role != "base":
                self.model.set_adapter(role)
            before, self._entered = self._entered, role
            self._freeze()
            if train:
                for parameter in self.parameters(role):
                    parameter.requires_grad_(True)
            self._mode(train)
            if checkpointing:
                self.causal_lm.activation_checkpointing_enable(activation_checkpointing_kwargs=CHECKPOINTING)
            try:
                yield
            finally:
                if checkpointing:
                    self.causal_lm.activation_checkpointing_disable()
                    self.causal_lm.disable_input_require_grads()
                if role == "base" and lora:
                    self.model.base_model.enable_adapter_layers()
                self._entered = before
                self._mode(train=False)
                self._freeze()
                self.changes += train

    def parameters(self, role: str) -> list[nn.Parameter]:
        """The adapter's parameters, then the head's, in a fixed order; ``base``: the model's own."""
        if role == "base":
            return list(self.causal_lm.parameters()) if len(self.roles) == 1 else []
        kinds = ("lora_", "prompt_encoder.")
        found = [
            p for name, p in self.model.named_parameters() if f".{role}." in name and any(k in name for k in kinds)
        ]
        return found + (list(self.heads[role].parameters()) if role in self.heads else [])

    def _mode(self, train: bool) -> None:
        self.model.train(train)
        for module in int8_on_cpu(self.causal_lm):
            module.train()

    def _freeze(self) -> None:
        # set_adapter makes the adapter that it sets trainable, so the flags are reset after every switch
        self.model.requires_grad_(False)
        for head in self.heads.values():
            head.requires_grad_(False)

    # -- forward ------------------------------------------------------------------------------------------

    def hidden(self, ids: Tensor, mask: Tensor, cache: Any = None) -> Any:
        """Last hidden states.

        ``ids``: int64 [B, T]; ``mask``: int64 [B, P + T], with P the tokens of these texts that ``cache`` holds;
        positions count the mask's ones, so padding on either side does not move them. Returns the model's output
        (``last_hidden_state`` [B, T, H] in the compute dtype, ``past_key_values`` when a cache came in). Virtual
        tokens of the role stand before position 0 and come on top of ids, mask and P.
        """
        inputs: dict[str, Any] = {"input_ids": ids}
        unseen = 0  # virtual tokens that go in with this call and come out of it
        if tokens := self.virtual.get(self._entered):
            starts = mask.shape[1] == ids.shape[1]
            mask = torch.cat([mask.new_ones((len(ids), tokens.count)), mask], dim=1)
            if starts and tokens.kind == "prefix":
                if cache is None:
                    cache = DynamicCache(config=self.causal_lm.config)
                virtual.put_before(cache, self._key_values(), len(ids))
            elif starts:
                embedded = self.causal_lm.get_input_embeddings()(ids)
                trained = self._encoder().to(embedded.dtype).expand(len(ids), -1, -1)
                inputs = {"inputs_embeds": torch.cat([trained, embedded], dim=1)}
                unseen = tokens.count
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -(ids.shape[1] + unseen) :]
        out = self.causal_lm.get_decoder()(
            **inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None
        )
        if unseen:
            out.last_hidden_state = out.last_hidden_state[:, unseen:]
        return out

    def hidden_packed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states [B, T, H] of sequences that hold several texts each.

        ``ids``, ``positions``: int64 [B, T]; a position 0 begins a text, and texts do not see each other: without a
        mask and a cache, transformers reads the position ids so and makes the attention block-diagonal.
        """
        decoder = self.causal_lm.get_decoder()
        return decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state

    def compute(self) -> Any:
        """The arithmetic of a training step in the compute dtype where the weights are kept in float32."""
        dtype = DTYPES[self.config.compute_dtype]
        wider = next(self.causal_lm.parameters()).dtype != dtype and self.config.quantization == "none"
        return torch.autocast(self.device.type, dtype=dtype, enabled=wider)

    def _encoder(self) -> Tensor:
        """float32 [V, D]: the virtual tokens of the role that is entered."""
        return self.model.prompt_encoder[self._entered].embedding.weight

    def _key_values(self) -> virtual.States:
        settings = self.model.peft_config[self._entered]
        return virtual.key_values(
            self._encoder(), settings.num_layers, settings.num_attention_heads, DTYPES[self.config.compute_dtype]
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [N, V] from hidden states [N, H]: pass only the positions that are needed."""
        return self.causal_lm.get_output_embeddings()(hidden).float()

    def scalar(self, role: str, hidden: Tensor) -> Tensor:
        """The head of ``role`` in float32: [..., H] to [...], scaled to mean 0, deviation 1 where fitted."""
        gain, bias = self.scales[role]
        return self.heads[role](hidden.float()).squeeze(-1) * gain + bias

    # -- weights ------------------------------------------------------------------------------------------

    def weights(self, role: str) -> dict[str, Tensor]:
        """Adapter and head of ``role`` by name, detached."""
        if role in self.virtual:
            return {"virtual": self.model.prompt_encoder[role].embedding.weight.detach()}
        state = get_peft_model_state_dict(self.model, adapter_name=role)
        if role in self.heads:
            state |= {f"head.{name}": value for name, value in self.heads[role].state_dict().items()}
        return {name: value.detach() for name, value in sorted(state.items())}

    def set_weights(self, role: str, weights: dict[str, Tensor]) -> None:
        """The inverse of ``weights``; raises SetupError when they do not fit this backbone."""
        adapter = {name: value for name, value in weights.items() if not name.startswith("head.")}
        self.changes += 1
        foreign = f"the {role} adapter does not fit this base model; use the one it was trained on"
        if role in self.virtual:
            place = self.model.prompt_encoder[role].embedding.weight
            if adapter.keys() != {"virtual"} or adapter["virtual"].shape != place.shape:
                raise SetupError(foreign)
            with torch.no_grad():
                place.copy_(adapter["virtual"])
            return
        try:
            result = set_peft_model_state_dict(self.model, adapter, adapter_name=role)
        except RuntimeError as error:
            raise SetupError(foreign) from error
        missing = [name for name in result.missing_keys if f".{role}." in name]
        if missing or result.unexpected_keys:
            raise SetupError(foreign)
        if role in self.heads:
            self.heads[role].load_state_dict({n[5:]: v for n, v in weights.items() if n.startswith("head.")})

"""One causal language model, loaded once, on which every role is a LoRA adapter.

``base`` is the model as it came. ``sft`` (frozen: the KL reference), ``policy``, ``value`` and ``reward`` are
adapters; the scalar heads of ``reward`` and ``value`` are small float32 modules outside PEFT. Entering a role sets
the adapter, the mode and ``requires_grad``, and restores them after. Run forward and backward inside one role:
switching adapters before a backward pass gives wrong gradients under gradient checkpointing, without an error.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alignment.chat_format import ChatFormat
from alignment.config import BackboneConfig
from alignment.errors import SetupError
from alignment.weights import fingerprint, load_causal_lm, load_tokenizer

ROLES = ("sft", "reward", "policy", "value")
SCALAR_ROLES = ("reward", "value")


class Backbone:
    """The model, its tokenizer, its roles and heads. One thread at a time is inside a role (a lock sees to it)."""

    def __init__(self, config: BackboneConfig) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(config.model)
        self.chat = ChatFormat(self.tokenizer)
        self.model: Any = load_causal_lm(config)
        self._causal_lm = self.model
        self.device = next(self.model.parameters()).device
        self.hidden_size: int = self.model.config.get_text_config().hidden_size
        self.heads: dict[str, nn.Linear] = {}
        self.scales: dict[str, tuple[float, float]] = {}
        self.sha256 = fingerprint(config.model)
        self._lock = threading.RLock()

    @property
    def roles(self) -> tuple[str, ...]:
        """``base`` and the adapters that are there."""
        return ("base", *(r for r in ROLES if r in getattr(self.model, "peft_config", {})))

    def add_role(self, role: str, seed: int, copy_of: str | None = None) -> None:
        """A new adapter: B = 0, A random from ``seed``, or a copy of another role's adapter (and head)."""
        lora = LoraConfig(
            r=self.config.lora.rank,
            lora_alpha=self.config.lora.alpha,
            lora_dropout=0.0,  # dropout would move the PPO ratio before any update
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if hasattr(self.model, "peft_config"):
                self.model.add_adapter(role, lora)
            else:
                self.model = get_peft_model(self.model, lora, adapter_name=role)
            if role in SCALAR_ROLES:
                head = nn.Linear(self.hidden_size, 1, dtype=torch.float32, device=self.device)
                # standard deviation 1 / sqrt(d + 1): Stiennon et al. 2020 (arXiv 2009.01325), summarize-from-feedback
                nn.init.normal_(head.weight, std=(self.hidden_size + 1) ** -0.5)
                nn.init.zeros_(head.bias)
                self.heads[role] = head
                self.scales[role] = (1.0, 0.0)
        if copy_of is not None:
            self.set_weights(role, {k: v.clone() for k, v in self.weights(copy_of).items()})
            if role in self.heads and copy_of in self.heads:
                self.scales[role] = self.scales[copy_of]
        self._freeze()

    @contextmanager
    def role(self, role: str, train: bool = False) -> Iterator[None]:
        """Inside, every forward is ``role``'s; with ``train`` its adapter and head take gradients."""
        if role not in self.roles:
            raise SetupError(f"this model has no role {role!r}; it has {', '.join(self.roles)}")
        with self._lock:
            if role == "base" and len(self.roles) > 1:
                self.model.base_model.disable_adapter_layers()
            elif role != "base":
                self.model.set_adapter(role)
            self._freeze()
            if train:
                for parameter in self.parameters(role):
                    parameter.requires_grad_(True)
            self.model.train(train)
            try:
                yield
            finally:
                if role == "base" and len(self.roles) > 1:
                    self.model.base_model.enable_adapter_layers()
                self.model.eval()
                self._freeze()

    def parameters(self, role: str) -> list[nn.Parameter]:
        """The adapter's parameters, then the head's, in a fixed order."""
        found = [p for name, p in self.model.named_parameters() if f".{role}." in name and "lora_" in name]
        return found + (list(self.heads[role].parameters()) if role in self.heads else [])

    def _freeze(self) -> None:
        # set_adapter makes the adapter that it sets trainable, so the flags are reset after every switch
        self.model.requires_grad_(False)
        for head in self.heads.values():
            head.requires_grad_(False)

    # -- forward ------------------------------------------------------------------------------------------

    def hidden(self, ids: Tensor, mask: Tensor, cache: Any = None) -> Any:
        """Last hidden states.

        ``ids``: int64 [B, T]; ``mask``: int64 [B, P + T], with P the length of ``cache``; positions count the mask's
        ones, so padding on either side does not move them. Returns the model's output (``last_hidden_state``
        [B, T, H] in the compute dtype, ``past_key_values`` when a cache came in).
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self._causal_lm.get_decoder()(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [N, V] from hidden states [N, H]: pass only the positions that are needed."""
        return self._causal_lm.get_output_embeddings()(hidden).float()

    def scalar(self, role: str, hidden: Tensor) -> Tensor:
        """The head of ``role`` in float32: [..., H] to [...], scaled to mean 0, deviation 1 where fitted."""
        gain, bias = self.scales[role]
        return self.heads[role](hidden.float()).squeeze(-1) * gain + bias

    # -- files --------------------------------------------------------------------------------------------

    def weights(self, role: str) -> dict[str, Tensor]:
        """Adapter and head of ``role`` by name, detached."""
        state = get_peft_model_state_dict(self.model, adapter_name=role)
        if role in self.heads:
            state |= {f"head.{name}": value for name, value in self.heads[role].state_dict().items()}
        return {name: value.detach() for name, value in sorted(state.items())}

    def set_weights(self, role: str, weights: dict[str, Tensor]) -> None:
        """The inverse of ``weights``; raises SetupError when they do not fit this backbone."""
        adapter = {name: value for name, value in weights.items() if not name.startswith("head.")}
        try:
            result = set_peft_model_state_dict(self.model, adapter, adapter_name=role)
        except RuntimeError as error:
            raise SetupError(
                f"the {role} adapter does not fit this base model; use the one it was trained on"
            ) from error
        missing = [name for name in result.missing_keys if f".{role}." in name]
        if missing or result.unexpected_keys:
            raise SetupError(f"the {role} adapter does not fit this base model; use the one it was trained on")
        if role in self.heads:
            self.heads[role].load_state_dict({n[5:]: v for n, v in weights.items() if n.startswith("head.")})

    def save_role(self, role: str, folder: Path) -> str:
        """Writes ``adapter.safetensors`` and ``adapter.json``; returns the weights' sha256."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "adapter.safetensors"
        save_file({name: value.contiguous().cpu() for name, value in self.weights(role).items()}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        meta = {
            "role": role,
            "sha256": digest,
            "base_sha256": self.sha256,
            "lora": self.config.lora.model_dump(),
            "scale": self.scales.get(role),
        }
        (folder / "adapter.json").write_text(json.dumps(meta, indent=1) + "\n")
        return digest

    def load_role(self, role: str, folder: Path) -> None:
        """Reads what ``save_role`` wrote; raises SetupError for another base model's adapter or a damaged file."""
        meta = json.loads((folder / "adapter.json").read_text())
        path = folder / "adapter.safetensors"
        if meta["base_sha256"] != self.sha256:
            raise SetupError(
                f"the {role} adapter in {folder} belongs to another base model (sha256 {meta['base_sha256'][:12]}…, "
                f"this one is {self.sha256[:12]}…); set backbone.model to the one it was trained on"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
            raise SetupError(f"{path} is damaged; delete the run's {role} stage, or train it again with --fresh")
        if role not in self.roles:
            self.add_role(role, seed=0)
        self.set_weights(role, load_file(path))
        if meta["scale"]:
            self.scales[role] = (meta["scale"][0], meta["scale"][1])

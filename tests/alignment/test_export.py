"""An exported folder is a plain model with the role's logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings, VirtualTokens
from alignment.errors import SetupError, UsageError
from alignment.export import export_role, gguf_names, merged_weights


def make(path: Path, quantization: str) -> Backbone:
    backbone = Backbone(
        BackboneConfig(
            model=str(path), quantization=quantization, compute_dtype="float32", lora=LoraSettings(rank=4, alpha=12)
        )
    )
    generator = torch.Generator().manual_seed(0)
    for role in ("sft", "reward", "policy"):
        backbone.add_role(role, seed=0)
        for parameter in backbone.parameters(role):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return backbone


def logits(backbone: Backbone, role: str, ids: torch.Tensor) -> torch.Tensor:
    with backbone.role(role), torch.no_grad():
        return backbone.logits(backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_the_folder_has_the_roles_logits(tiny_model: Path, tmp_path: Path, quantization: str) -> None:
    backbone = make(tiny_model, quantization)
    ids = torch.tensor([backbone.chat.prompt_ids([{"role": "user", "content": "4 7 8 8"}])])
    want = logits(backbone, "policy", ids)
    what = export_role(backbone, "policy", tmp_path / "out", "float32")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert plain.dtype == torch.float32 and not hasattr(plain.config, "quantization_config")
    with torch.no_grad():
        assert torch.allclose(plain(input_ids=ids).logits, want, rtol=0, atol=1e-5 * want.abs().max().item())
    assert {"none": "as they are", "int8": "from int8", "nf4": "from NF4"}[quantization] in what["merged"]
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == what
    assert not torch.allclose(logits(backbone, "sft", ids), want, atol=1e-2)


def test_names_tokenizer_and_ending_are_the_models_own(tiny_model: Path, tmp_path: Path) -> None:
    backbone = make(tiny_model, "nf4")
    export_role(backbone, "sft", tmp_path / "new" / "out", "bfloat16")
    folder = tmp_path / "new" / "out"
    exported = load_file(folder / "model.safetensors")
    assert exported.keys() == load_file(tiny_model / "model.safetensors").keys()
    assert {weight.dtype for weight in exported.values()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "4 7 8 8"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        backbone.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    config = json.loads((folder / "config.json").read_text())  # where GGUF converters look
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert AutoConfig.from_pretrained(folder).rope_parameters == backbone.causal_lm.config.rope_parameters
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    assert "im_start" in saved["chat_template"] and saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id == backbone.chat.eos_id
    with pytest.raises(UsageError, match="is not empty; name a new folder"):
        export_role(backbone, "sft", folder, "bfloat16")


def test_a_trained_prefix_cannot_be_merged(tiny_model: Path, tmp_path: Path) -> None:
    backbone = Backbone(BackboneConfig(model=str(tiny_model), quantization="none"))
    backbone.add_role("sft", seed=0, tokens=VirtualTokens(kind="prefix", count=2))
    with pytest.raises(SetupError, match="trained prefix: it stands before the text and cannot be merged"):
        export_role(backbone, "sft", tmp_path / "out", "float32")
    with pytest.raises(SetupError, match="no role 'policy'; it has base, sft"):
        export_role(backbone, "policy", tmp_path / "out", "float32")
    assert not (tmp_path / "out").exists()


def test_a_gguf_converter_knows_the_names(tiny_model: Path) -> None:
    pytest.importorskip("gguf")
    config = AutoConfig.from_pretrained(tiny_model)
    names = list(merged_weights(make(tiny_model, "none"), "sft", torch.float32))
    assert gguf_names(config, names) == f"all {len(names)} tensor names are known for the architecture 'llama'"
    assert "1 of 2 tensor names, q.base_layer.weight first" in gguf_names(config, [names[0], "q.base_layer.weight"])
    config.model_type = "no-such"
    assert gguf_names(config, names) == "not checked: gguf knows no architecture 'no-such'"

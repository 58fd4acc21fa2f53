"""A tiny random model with a real tokenizer, built in memory and saved where the loaders can read it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

# a shell starts what runs in its background deaf to Ctrl-C, and children inherit that: here some are sent one
signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WINDOW = 2**14  # tools with their schemas do not fit into the 512 of the tiny model, nor does an agent of smolagents
CORPUS = ["10 - 4 = 6 (left: 5 6 6)", "4 7 8 8", "LEAVE: 2 9 cannot make 24", "Make 24.", "the quick brown fox"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first, which are those of long tests: the short ones then fill what is left of the time of
    several processes (with --no-loadscope-reorder, since pytest-xdist does the opposite)."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama (random weights, seed 0) and a byte-level BPE tokenizer with a chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights: a foreign base model."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model, random as it is, with a wider window."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": WINDOW}))
    return folder


@pytest.fixture
def first_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What an expert calls first before each of its steps, by its name: whether random weights would call anything
    hangs on how the machine rounds. What is put in here takes the place of the text that they wrote."""
    from dataclasses import replace

    from agents.tool_calls import CLOSE, OPEN
    from alignment.engine import Engine

    chosen: dict[str, dict[str, Any]] = {}
    generate = Engine.generate

    def steered(engine: Engine, requests: Any) -> Any:
        done = generate(engine, requests)
        for i, request in enumerate(requests):
            *_, step, part = ["", "", *str(request.seed).split("/")]
            if part == "1" and (call := chosen.get(step.partition("-")[0])):
                done[i] = replace(done[i], text=OPEN + json.dumps(call) + CLOSE, finish="eos")
        return done

    monkeypatch.setattr(Engine, "generate", steered)
    return chosen


def make_tiny_model(folder: Path, seed: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # digits apart, as in SmolLM2
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chat_server(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An OpenAI-compatible server of the tiny model (tests/chat_server.py) that wants no key; ``address`` is its."""
    from alignment.engine import Engine

    spec = importlib.util.spec_from_file_location("junto_chat_server", Path(__file__).with_name("chat_server.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Engine.open(tiny_model, "float32") as engine, module.ChatServer(engine) as server:
        yield server

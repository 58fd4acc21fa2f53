"""What stops a training: a loss that is no number, memory, disk. One sentence each, with three settings that help."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from alignment import checkpoint
from alignment.errors import JuntoError, SetupError
from alignment.run_dir import RunDir

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc")
# what torch.save says when its file takes no more: it does not hand on the system's error
UNWRITTEN = ("inline_container.cc", "PytorchStreamWriter")
LESS_MEMORY = {
    "sft": "lower sft.batch_size or sft.max_length",
    "reward": "lower reward.batch_size or reward.max_length",
    "ppo": "set ppo.micro_batch_size or lower ppo.max_tokens",
}
STEADIER = {"ppo": "lower ppo.learning_rate or raise ppo.kl_coef"}
AGAIN = "and run the same command again (this stage starts over, finished ones are kept)"


def refuse_nan(stage: str, step: int, *values: float) -> None:
    """Raises JuntoError where a loss, a gradient norm or a score of ``step`` (from 1) is not finite.

    Call it before the optimizer's step, so that no such gradient reaches the weights or a checkpoint.
    """
    if all(map(math.isfinite, values)):
        return
    steadier = STEADIER.get(stage, f"lower {stage}.learning_rate or raise {stage}.warmup_steps")
    unit = "iteration" if stage == "ppo" else "step"
    raise JuntoError(
        f"{stage} {unit} {step}: the loss, its gradient or a score is not a finite number; {steadier} {AGAIN}, or set "
        "backbone.compute_dtype to float32 and add --fresh"
    )


@contextmanager
def explained(stage: str, run: RunDir) -> Iterator[None]:
    """Inside, a full disk and a full memory are SetupErrors; the last checkpoint is as it was."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
        if _disk_is_full(error):
            raise SetupError(
                f"{stage}: no space left for {run.path}; free some, or name another disk by --runs-root or JUNTO_RUNS, "
                f"or make adapters smaller by backbone.lora.rank; {_kept(stage, run)}"
            ) from error
        if _memory_is_full(error):
            raise SetupError(
                f"{stage}: out of memory; {LESS_MEMORY[stage]} {AGAIN}, or set backbone.quantization to nf4, or "
                f"backbone.model to a smaller one, and add --fresh; {_kept(stage, run)}"
            ) from error
        raise


def _kept(stage: str, run: RunDir) -> str:
    last = checkpoint.latest(run.path / "checkpoints" / stage)
    return f"the checkpoint of step {int(last.name.removeprefix('step-'))} is intact" if last else "no checkpoint yet"


def _disk_is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    if isinstance(error, SafetensorError):  # has the system's error in words
        found = re.search(r"os error (\d+)", str(error))
        return found is not None and int(found[1]) in FULL
    return isinstance(error, RuntimeError) and any(words in str(error) for words in UNWRITTEN)


def _memory_is_full(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in text for words in MEMORY)

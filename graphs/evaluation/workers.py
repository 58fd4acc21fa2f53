"""Answers from several processes, or machines, through Ray (the extra ``ray``): each worker loads the model once and
takes batches as it gets ready. Samples are those of one process: batches are the same ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alignment.errors import JuntoError, SetupError
from graphs.evaluation.answers import answered
from graphs.evaluation.config import Evaluation
from graphs.evaluation.graph import Answer
from graphs.evaluation.subject import opened
from graphs.tasks import Row


class Worker:
    """One process with the model; Ray makes an actor of it."""

    def __init__(self, name: str, runs_root: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._stack = ExitStack()
        self._subject = self._stack.enter_context(opened([name], runs_root))(name)

    def answer(self, evaluation: Evaluation, seed: int, batch: list[Row], tolerant: bool) -> list[Row]:
        return next(answered(self._subject, evaluation, seed, [batch], tolerant))


@contextmanager
def over_workers(name: str, count: int, runs_root: Path) -> Iterator[Answer]:
    """Inside, what answers by ``count`` workers: of the cluster that ``RAY_ADDRESS`` names, which has to see the same
    files, or on this machine, which then shares its cores out. Raises SetupError where Ray is not installed."""
    try:
        import ray
    except ModuleNotFoundError:
        raise SetupError("--engine ray needs Ray; install it: pip install 'junto[ray]'") from None
    cluster = os.environ.get("RAY_ADDRESS")
    cores = os.cpu_count() or 1
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    here = {} if cluster else {"num_cpus": max(count, cores), "_node_ip_address": "127.0.0.1"}
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for the sake of other users
    ray.init(address=cluster or "local", **quiet, **here)
    try:
        actor = ray.remote(num_cpus=1)(Worker)
        threads = int(os.environ.get("OMP_NUM_THREADS", cores)) if cluster else max(1, cores // count)
        pool = [actor.remote(name, runs_root.resolve(), threads) for _ in range(count)]
        yield partial(_answer, pool)
    finally:
        ray.shutdown()


def _answer(
    workers: list[Any], evaluation: Evaluation, seed: int, batches: list[list[Row]], tolerant: bool
) -> Iterator[list[Row]]:
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
    from ray.util import ActorPool

    def ask(worker: Any, batch: list[Row]) -> Any:
        return worker.answer.remote(evaluation, seed, batch, tolerant)

    try:
        yield from ActorPool(workers).map(ask, batches)
    except RayTaskError as error:
        raise error.cause from None
    except (RayActorError, OutOfMemoryError) as error:
        if getattr(error, "actor_init_failed", False):
            why = str(error).strip().splitlines()[-1]
            raise SetupError(
                f"a worker of Ray could not load the model; it has to see the same files ({why})"
            ) from error
        raise JuntoError(
            "a worker of Ray has ended before it answered (killed, or out of memory); what is answered is kept, and "
            "the same command again goes on; with fewer --workers it takes less memory"
        ) from error

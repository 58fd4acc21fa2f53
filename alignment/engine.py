"""The engine: every forward outside a gradient step, on one worker thread that alone enters roles.

Callers from any thread submit and wait. Rows join those that are being written, and leave them, between two tokens, so
that nobody waits for somebody else's batch; scores are computed between two tokens as well. A model that
``alignment.lean`` does not know is decoded by transformers' forward, a batch at a time.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alignment import text_scores
from alignment.adapter_files import load_guest, load_role
from alignment.admission import Admission
from alignment.backbone import Backbone
from alignment.batch import scored_ids
from alignment.config import BackboneConfig
from alignment.decoding import Completion, Lark, Prompt, Request, Row, matcher_of
from alignment.errors import SetupError, UsageError
from alignment.flight import Usage
from alignment.likelihood import Likelihood, likelihoods
from alignment.machine import give_back_threads
from alignment.run_dir import RunDir
from alignment.weights import inference_dtype

WINDOW_SECONDS = 0.02  # how long an idle worker waits for others that want the same batch

__all__ = ["Completion", "Engine", "Lark", "Request"]


@dataclass
class _Job:
    """Rows to decode, or a function to run on the worker."""

    rows: list[Row] = field(default_factory=list)
    call: Callable[[], Any] | None = None
    future: Future = field(default_factory=Future)

    def settle(self) -> bool:
        """Hands the rows back where all are written; whether nobody waits for this job any more."""
        if not self.future.done() and all(row.finish for row in self.rows):
            self.future.set_result(None)
        return self.future.done()


class Engine:
    """Generates, streams and scores on one backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.usage = Usage()
        self._admission = Admission(backbone, self.usage)
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._grammar_tokenizer: Any = None
        self._closing = threading.Event()
        self._gate = threading.Lock()  # nothing comes in behind the end
        self._worker = threading.Thread(target=self._work, name="junto-engine", daemon=True)
        give_back_threads()  # those that read the model
        self._worker.start()

    @classmethod
    def open(cls, model: str | Path, compute_dtype: str | None = None, runs_root: str | Path = "runs") -> Engine:
        """An engine over a run directory (with all its roles), a model folder, a hub id or ``embedded``; without
        ``compute_dtype`` in that of the run, or in float32 where this machine has no bfloat16."""
        run = RunDir.find(model, runs_root)
        settings = BackboneConfig(**(run.backbone() if run else {"model": str(model), "quantization": "none"}))
        dtype = compute_dtype or inference_dtype(settings)
        backbone = Backbone(BackboneConfig(**settings.model_dump() | {"compute_dtype": dtype}))
        if run:
            found = [p.parent.name for p in (run.path / "adapters").glob("*/adapter.json")]
            if not found:
                raise SetupError(f"the run {run.path} has no trained adapters yet; run its recipe first")
            for role in sorted(found):
                load_role(backbone, role, run.path / "adapters" / role)
        return cls(backbone)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.backbone.roles

    @property
    def window(self) -> int | None:
        """Tokens that prompt and reply may have together; None where the architecture sets no limit."""
        return getattr(self.backbone.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a score: base weights, storage, arithmetic and adapters, for cache keys and records."""
        return text_scores.fingerprint(self.backbone)

    def add_guest(self, role: str, folder: Path) -> str:
        """Loads a role of another run on the same base model from its ``adapters/ROLE``; returns its name here."""
        return self._call(lambda: load_guest(self.backbone, role, folder))

    @property
    def flops(self) -> float:
        """Floating-point operations of all texts that were written and scored so far: two per weight and token
        (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, without attention's share, which grows with the context)."""
        return 2.0 * self.backbone.linear_parameters * (self.usage.read + self.usage.written + self.usage.scored)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions in the order of the requests. Several roles make several batches."""
        rows = [self._row(request) for request in requests]
        self._submit(_Job(rows=rows)).result()
        return [row.completion() for row in rows]

    def forget_texts(self) -> None:
        """Drops what is kept of finished texts for those that begin alike, so that what is written next does not hang
        on what was written before: a prefix that is read again or not changes how bfloat16 sums are rounded."""
        self._call(self._admission.forget_texts)

    def stream(self, request: Request) -> Generator[str, None, Completion]:
        """Pieces of text as they come, and the completion as the return value; closing the iterator cancels the row."""
        pieces = self.streams([request])
        try:
            while True:
                yield next(pieces)[1]
        except StopIteration as end:
            return end.value[0]
        finally:
            pieces.close()

    def streams(self, requests: Sequence[Request]) -> Generator[tuple[int, str], None, list[Completion]]:
        """Pieces of several texts as they come, each with the index of its request, and the completions in the order of
        the requests as the return value. Those of one role begin together; closing the iterator cancels all."""
        pieces: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        gone = threading.Event()
        rows = [self._row(request) for request in requests]
        for i, row in enumerate(rows):
            row.emit = partial(lambda i, piece: pieces.put((i, piece)), i)
            row.cancelled = lambda: gone.is_set() or self._closing.is_set()
        future = self._submit(_Job(rows=rows))
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (found := pieces.get()) is not None:
                yield found
            future.result()
            return [row.completion() for row in rows]
        finally:
            gone.set()

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str], role: str = "reward") -> list[float]:
        """The scalar of ``role`` (``reward`` or ``value``) for each response, read at its last token. Raises UsageError
        for one that, with its prompt, is longer than the model's window."""
        if role not in self.backbone.heads:
            raise SetupError(f"this model has no {role} head; open a run that has trained one")
        chat = self.backbone.chat
        prompts = list(prompts)  # held, so that an id is one prompt's
        # one prompt before many responses is encoded once
        before = {key: chat.prompt_ids(prompt) for key, prompt in {id(prompt): prompt for prompt in prompts}.items()}
        rows = [before[id(p)] + scored_ids(chat, r) for p, r in zip(prompts, responses, strict=True)]
        if self.window is not None and (longest := max(map(len, rows), default=0)) > self.window:
            raise UsageError(
                f"a prompt and a response to be scored have {longest:,} tokens together, and the model reads "
                f"{self.window:,}; shorten them"
            )
        return self._call(lambda: text_scores.scores(self.backbone, rows, role, self.usage))

    def logprobs(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]], role: str, temperature: float = 1.0
    ) -> list[list[float]]:
        """Log-probabilities in nats of response tokens ``ids`` under ``role``."""
        before = [self.backbone.chat.prompt_ids(p) for p in prompts]
        return self._call(lambda: text_scores.logprobs(self.backbone, before, ids, role, temperature))

    def likelihoods(self, rows: Sequence[Sequence[int]], starts: Sequence[int], role: str) -> list[Likelihood]:
        """Log-probabilities in nats of each row's tokens from place ``start`` on under ``role`` (``base``: no adapter),
        and whether they are the greedy ones."""

        def call() -> list[Likelihood]:
            with self.backbone.role(role):
                return likelihoods(self.backbone, rows, starts, self.usage)

        return self._call(call)

    @contextmanager
    def for_training(self) -> Iterator[None]:
        """Inside, adapters stay beside the weights, as in a training's forward: merged into bfloat16, a small change
        would be rounded away. Copies and caches are dropped after each call."""
        self._admission.training = True
        try:
            yield
        finally:
            self._admission.training = False

    def close(self) -> None:
        """Ends the worker; rows that are being written end as ``cancelled`` at their next token."""
        with self._gate:
            self._closing.set()
            self._jobs.put(None)
        self._worker.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the worker ---------------------------------------------------------------------------------------

    def _row(self, request: Request) -> Row:
        if request.role not in self.roles:
            raise SetupError(f"this model has no role {request.role!r}; it has {', '.join(self.roles)}")
        chat = self.backbone.chat
        ids = chat.prompt_ids(request.prompt) + chat.text_ids(request.prefix)
        return Row(request, ids, cancelled=self._closing.is_set)

    def _submit(self, job: _Job) -> Future:
        give_back_threads()  # the caller waits, and the worker is to have the cores
        with self._gate:
            if self._closing.is_set() or not self._worker.is_alive():
                raise RuntimeError("the engine is closed")
            self._jobs.put(job)
        return job.future

    def _call(self, call: Callable[[], Any]) -> Any:
        return self._submit(_Job(call=call)).result()

    def _work(self) -> None:
        waiting: list[_Job] = []
        try:
            closing = False
            while waiting or not closing:
                closing |= self._collect(waiting, closing)
                self._turn(waiting)
                waiting[:] = [job for job in waiting if not job.settle()]
        except BaseException as error:  # a mistake of ours: nobody may wait for ever
            for job in waiting:
                if not job.future.done():
                    job.future.set_exception(error)
            raise

    def _turn(self, waiting: list[_Job]) -> None:
        """What is between two tokens, and one token of every row."""
        for job in [job for job in waiting if job.call]:
            waiting.remove(job)
            self._settle_call(job)
        if waiting:
            self._admit(waiting)
        flights = self._admission.flights
        for role, flight in list(flights.items()):
            if flight.rows:
                self._guard(waiting, role, flight.step)
            if not flight.rows:
                flights.pop(role, None)
        if self._admission.training and not flights:
            self._admission.forget()

    def _collect(self, waiting: list[_Job], closing: bool) -> bool:
        """Adds the jobs that have come, whose rows are ready then; waits where there is nothing else to do. Returns
        whether the engine is to close."""
        idle = not waiting
        until = None
        if idle and self._jobs.empty():
            give_back_threads()
        while not closing:
            try:
                job = self._jobs.get(idle, None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return False
            if job is None:
                return True
            if self._ready(job):
                waiting.append(job)
                if idle and job.call:
                    return False
                until = until or time.monotonic() + WINDOW_SECONDS
        return closing

    def _ready(self, job: _Job) -> bool:
        try:
            for row in job.rows:
                row.stream = random.Random(f"{row.request.seed}")
                if row.request.grammar:
                    row.matcher = matcher_of(row.request.grammar, self._grammar())
        except Exception as error:  # the caller's own
            job.future.set_exception(error)
            return False
        return True

    def _settle_call(self, job: _Job) -> None:
        assert job.call is not None
        try:
            job.future.set_result(job.call())
        except BaseException as error:  # whatever went wrong belongs to the caller, who waits
            job.future.set_exception(error)

    def _admit(self, waiting: list[_Job]) -> None:
        """Lets the rows that have not begun join those of their role, as many as fit."""
        self._admission.renew()
        flying = {id(row) for flight in self._admission.flights.values() for row in flight.rows}
        new = [row for job in waiting for row in job.rows if not row.finish and id(row) not in flying]
        for row in new:
            row.finish = "cancelled" if row.cancelled() else ""
        new = [row for row in new if not row.finish]
        for role in dict.fromkeys(row.request.role for row in new):
            rows = [row for row in new if row.request.role == role]
            # arrival order must not decide how rows are batched, nor how their sums are rounded
            rows.sort(key=lambda row: (row.prompt_ids, str(row.request.seed)))
            self._guard(waiting, role, partial(self._admission.join, role, rows))

    def _guard(self, waiting: list[_Job], role: str, work: Callable[[], None]) -> None:
        """Whatever goes wrong belongs to the callers whose rows were in it."""
        try:
            with self.backbone.lock, torch.no_grad():
                work()
        except BaseException as error:
            self._admission.flights.pop(role, None)
            for job in waiting:
                if any(row.request.role == role for row in job.rows) and not job.future.done():
                    job.future.set_exception(error)

    def _grammar(self) -> Any:
        if self._grammar_tokenizer is None:
            import llguidance.hf

            self._grammar_tokenizer = llguidance.hf.from_tokenizer(self.backbone.tokenizer)
        return self._grammar_tokenizer

"""The engine's one thread: commands in, steps, tokens out. It knows sequences and event loops, and no tensor.

Everything that changes while requests run belongs to this thread. Others only put commands into its inbox, which it
empties between two steps; and it hands each event loop all tokens of a step in one call.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from brie_core.errors import BrieError, EngineFailure, NotFound, NotReady
from brie_server.engine.base import Token
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Scheduler
from brie_server.engine.torch.sequence import Sequence

logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_Answer = Token | BrieError


@dataclass(eq=False, slots=True)
class Request:
    """A sequence, and the event loop on which somebody waits for its tokens."""

    sequence: Sequence
    loop: asyncio.AbstractEventLoop
    answers: asyncio.Queue[_Answer] = field(default_factory=asyncio.Queue)


class EngineThread:
    """Runs a scheduler and a runner, which are its own from here on, until it is closed."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner: Runner | None = runner
        self._requests: dict[Sequence, Request] = {}
        self._inbox: SimpleQueue[Callable[[Runner], None]] = SimpleQueue()
        self._closed = False
        self._entrance = threading.Lock()
        """No command may enter behind the one that ends the thread, or its sender would wait for ever."""
        self._thread = threading.Thread(target=self._live, name="brie-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; raises NotReady once closed. All other errors come as answers."""
        self._post(partial(self._submit, request))

    def abort(self, request: Request) -> None:
        """Stop a request, wherever it is; never waits and never fails."""
        with suppress(NotReady):
            self._post(partial(self._abort, request))

    def call(self, function: Callable[[Runner], _T]) -> Future[_T]:
        """Have `function` run between two steps; raises NotReady once closed."""
        future: Future[_T] = Future()
        self._post(partial(_fulfil, future, function))
        return future

    def unload(self, digest: str) -> Future[None]:
        """Free an adapter between two steps; requests that still use it fail rather than go on as the base model."""
        return self.call(partial(self._unload, digest))

    def close(self) -> None:
        """Let the thread end after the present step; may be called twice."""
        with self._entrance:
            if not self._closed:
                self._closed = True
                self._inbox.put(self._end)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _post(self, command: Callable[[Runner], None]) -> None:
        with self._entrance:
            if self._closed:
                raise NotReady("The engine has been stopped.")
            self._inbox.put(command)

    # from here on, all runs on the thread

    def _live(self) -> None:
        while self._runner is not None:
            self._take_commands(self._runner)
            if self._runner is not None:
                self._step(self._runner)

    def _take_commands(self, runner: Runner) -> None:
        if self._scheduler.is_idle:
            runner.release()
            self._inbox.get()(runner)
        while not self._inbox.empty():
            self._inbox.get()(runner)

    def _step(self, runner: Runner) -> None:
        affected = list(self._requests)
        try:
            if (step := self._scheduler.plan()) is None:
                return
            affected = [chunk.sequence for chunk in step.chunks]
            answers = self._scheduler.advance(step, runner.run(step))
        except Exception:
            logger.exception("A step failed; %d requests fail with it.", len(affected))
            # whoever has tokens in the cache is in every step, so that nobody is left who would miss it
            self._fail(affected, EngineFailure, "The engine failed on this answer; the request can be sent again.")
            runner.release()
            return
        self._deliver(
            (self._requests[sequence], token or EngineFailure("The model gave no finite probabilities."))
            for sequence, token in answers
        )

    def _submit(self, request: Request, runner: Runner) -> None:
        adapter = request.sequence.prompt.adapter
        self._requests[request.sequence] = request
        try:
            if adapter is not None and runner.adapter_bytes(adapter) is None:
                raise NotFound(f"The adapter {adapter} is not loaded.", code="model_not_found")
            self._scheduler.add(request.sequence)
        except BrieError as error:
            self._deliver([(request, error)])

    def _abort(self, request: Request, _runner: Runner) -> None:
        self._requests.pop(request.sequence, None)
        self._scheduler.abort(request.sequence)

    def _unload(self, digest: str, runner: Runner) -> None:
        users = [sequence for sequence in self._requests if sequence.prompt.adapter == digest]
        self._fail(users, EngineFailure, "The adapter was unloaded while it answered.")
        runner.unload_adapter(digest)

    def _end(self, _runner: Runner) -> None:
        self._fail(list(self._requests), NotReady, "The engine was stopped before the answer was complete.")
        self._runner = None

    def _fail(self, sequences: list[Sequence], error: type[BrieError], message: str) -> None:
        for sequence in sequences:
            self._scheduler.abort(sequence)
        self._deliver((self._requests[sequence], error(message)) for sequence in sequences)

    def _deliver(self, answers: Iterable[tuple[Request, _Answer]]) -> None:
        """Hand each loop its answers in one call; the requests of a loop that is gone are aborted."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Request, _Answer]]] = {}
        for request, answer in list(answers):
            by_loop.setdefault(request.loop, []).append((request, answer))
            if isinstance(answer, BrieError) or answer.finish:
                del self._requests[request.sequence]
        for loop, pairs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put, pairs)
            except RuntimeError:
                logger.warning("An event loop ended before its answers; %d requests are aborted.", len(pairs))
                for request, _ in pairs:
                    self._requests.pop(request.sequence, None)
                    self._scheduler.abort(request.sequence)


def _put(pairs: list[tuple[Request, _Answer]]) -> None:
    for request, answer in pairs:
        request.answers.put_nowait(answer)


def _fulfil(future: Future[_T], function: Callable[[Runner], _T], runner: Runner) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(runner))
    except Exception as error:  # noqa: BLE001  # it is raised where the result is awaited
        future.set_exception(error)

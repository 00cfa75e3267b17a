"""An engine's one thread: commands in, steps, tokens out. It knows prompts and event loops, and no model.

Everything that changes while requests run belongs to this thread. Others only put commands into its inbox, which it
empties between two steps; and it hands each event loop all tokens of a step in one call.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from brie_core.errors import BrieError, EngineFailure, NotFound, NotReady
from brie_server.engine.base import Embedding, Prompt, Token

logger = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""How long a thread that has nothing to do keeps what it computed with."""
_NOTHING = "Nothing came of it: the model's numbers are not finite, or the answer's form allows no token."
_T = TypeVar("_T")
_Answer = Token | Embedding | BrieError


class Asked(Protocol):
    """A request's state inside an engine; two of them are never equal."""

    @property
    def prompt(self) -> Prompt: ...


SequenceT = TypeVar("SequenceT", bound=Asked)


class Scheduler(Protocol[SequenceT]):
    """Decides what each step computes; `plan` and `advance` alternate.

    A step, and what comes of it, are a matter between a scheduler and its runner.
    """

    @property
    def is_idle(self) -> bool: ...
    def add(self, sequence: SequenceT, /) -> None:
        """Queue a sequence; raises Overloaded."""
        ...

    def abort(self, sequence: SequenceT, /) -> None:
        """Forget a sequence wherever it is; one that is unknown or finished is no error."""
        ...

    def plan(self) -> Any:
        """The next step, whose `chunks` name the sequences that it computes, or None."""
        ...

    def advance(self, step: Any, sampled: Any, /) -> Sequence[tuple[SequenceT, Token | Embedding | None]]:
        """What the step gave; None for a sequence that nothing could be chosen or told for, which has left."""
        ...

    def rest(self) -> None:
        """Nothing runs, and the runner is about to give back what it computed with."""
        ...

    def forget(self, adapter: str, /) -> None:
        """Never again begin with what was computed with this adapter."""
        ...

    def forget_all(self) -> None:
        """Never again begin with anything that was computed: a step has failed, and all its sequences are gone."""
        ...


class Runner(Protocol):
    """Computes steps; owns the model and the adapters."""

    def run(self, step: Any, /) -> Any: ...
    def release(self) -> None:
        """Called when there is nothing to do; what others still need stays."""
        ...

    def reset(self) -> None:
        """Called after a step that failed: nothing that was computed is asked for again."""
        ...

    def adapter_bytes(self, digest: str, /) -> int | None:
        """The size of a loaded adapter; None for one that is not."""
        ...

    def unload_adapter(self, digest: str, /) -> None: ...


RunnerT = TypeVar("RunnerT", bound=Runner)


@dataclass(eq=False, slots=True)
class Request(Generic[SequenceT]):
    """A sequence, and the event loop on which somebody waits for its tokens."""

    sequence: SequenceT
    loop: asyncio.AbstractEventLoop
    answers: asyncio.Queue[_Answer] = field(default_factory=asyncio.Queue)


class EngineThread(Generic[SequenceT, RunnerT]):
    """Runs a scheduler and a runner, which are its own from here on, until it is closed."""

    def __init__(self, scheduler: Scheduler[SequenceT], runner: RunnerT) -> None:
        self._scheduler = scheduler
        self._runner: RunnerT | None = runner
        self._requests: dict[SequenceT, Request[SequenceT]] = {}
        self._inbox: SimpleQueue[Callable[[RunnerT], None]] = SimpleQueue()
        self._closed = False
        self._entrance = threading.Lock()
        """No command may enter behind the one that ends the thread, or its sender would wait for ever."""
        self._thread = threading.Thread(target=self._live, name="brie-engine", daemon=True)
        self._thread.start()

    async def answers(self, make: Callable[[], SequenceT]) -> AsyncGenerator[Token, None]:
        """The tokens of the sequence that `make` gives; neither is asked for before the first token is.

        Raises what `make` raises, NotReady once closed, and the request's own error when it has one.
        """
        with self._asked(make()) as answers:
            while True:
                token = _expected(await answers.get(), Token)
                yield token
                if token.finish:
                    return

    async def embedding(self, make: Callable[[], SequenceT]) -> Embedding:
        """What the sequence that `make` gives is told at its end; raises as `answers` does."""
        with self._asked(make()) as answers:
            return _expected(await answers.get(), tuple)

    def call(self, function: Callable[[RunnerT], _T]) -> Future[_T]:
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

    @contextmanager
    def _asked(self, sequence: SequenceT) -> "Iterator[asyncio.Queue[_Answer]]":
        """Where the answers arrive; whoever leaves aborts what is not answered."""
        request = Request(sequence, asyncio.get_running_loop())
        self._post(partial(self._submit, request))
        try:
            yield request.answers
        finally:
            # nothing may be awaited here: when a client has gone, every await raises at once
            with suppress(NotReady):
                self._post(partial(self._abort, request))

    def _post(self, command: Callable[[RunnerT], None]) -> None:
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

    def _take_commands(self, runner: RunnerT) -> None:
        if self._scheduler.is_idle:
            self._next_command(runner)(runner)
        while not self._inbox.empty():
            self._inbox.get()(runner)

    def _next_command(self, runner: RunnerT) -> Callable[[RunnerT], None]:
        """Whoever asks again soon finds the cache as it was: making it anew takes longer than a step."""
        with suppress(Empty):
            return self._inbox.get(timeout=PATIENCE_S)
        self._scheduler.rest()
        runner.release()
        return self._inbox.get()

    def _step(self, runner: RunnerT) -> None:
        affected = list(self._requests)
        try:
            if (step := self._scheduler.plan()) is None:
                return
            affected = [chunk.sequence for chunk in step.chunks]
            answers = self._scheduler.advance(step, runner.run(step))
        except Exception:
            logger.exception("A step failed; %d requests fail with it.", len(affected))
            self._fail(affected, EngineFailure, "The engine failed on this answer; the request can be sent again.")
            self._scheduler.forget_all()
            runner.reset()
            return
        self._deliver((self._requests[sequence], answer or EngineFailure(_NOTHING)) for sequence, answer in answers)

    def _submit(self, request: Request[SequenceT], runner: RunnerT) -> None:
        adapter = request.sequence.prompt.adapter
        self._requests[request.sequence] = request
        try:
            if adapter is not None and runner.adapter_bytes(adapter) is None:
                raise NotFound(f"The adapter {adapter} is not loaded.", code="model_not_found")
            self._scheduler.add(request.sequence)
        except BrieError as error:
            self._deliver([(request, error)])

    def _abort(self, request: Request[SequenceT], _runner: RunnerT) -> None:
        self._requests.pop(request.sequence, None)
        self._scheduler.abort(request.sequence)

    def _unload(self, digest: str, runner: RunnerT) -> None:
        users = [sequence for sequence in self._requests if sequence.prompt.adapter == digest]
        self._fail(users, EngineFailure, "The adapter was unloaded while it answered.")
        self._scheduler.forget(digest)
        runner.unload_adapter(digest)

    def _end(self, _runner: RunnerT) -> None:
        self._fail(list(self._requests), NotReady, "The engine was stopped before the answer was complete.")
        self._runner = None

    def _fail(self, sequences: Sequence[SequenceT], error: type[BrieError], message: str) -> None:
        for sequence in sequences:
            self._scheduler.abort(sequence)
        self._deliver((self._requests[sequence], error(message)) for sequence in sequences)

    def _deliver(self, answers: Iterable[tuple[Request[SequenceT], _Answer]]) -> None:
        """Hand each loop its answers in one call; the requests of a loop that is gone are aborted."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Request[SequenceT], _Answer]]] = {}
        for request, answer in list(answers):
            by_loop.setdefault(request.loop, []).append((request, answer))
            if not isinstance(answer, Token) or answer.finish:
                del self._requests[request.sequence]
        for loop, pairs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put, pairs)
            except RuntimeError:
                logger.warning("An event loop ended before its answers; %d requests are aborted.", len(pairs))
                for request, _ in pairs:
                    self._requests.pop(request.sequence, None)
                    self._scheduler.abort(request.sequence)


def _expected(answer: _Answer, kind: type[_T]) -> _T:
    """The answer, which is of this kind unless it is an error, which is raised."""
    if isinstance(answer, BrieError):
        raise answer
    if not isinstance(answer, kind):
        raise TypeError(f"a request for {kind} was answered by {type(answer)}")
    return answer


def _put(pairs: Sequence[tuple[Request[Any], _Answer]]) -> None:
    for request, answer in pairs:
        request.answers.put_nowait(answer)


def _fulfil(future: Future[_T], function: Callable[[RunnerT], _T], runner: RunnerT) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(runner))
    except Exception as error:  # noqa: BLE001  # it is raised where the result is awaited
        future.set_exception(error)

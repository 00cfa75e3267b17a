"""The API, which notes when its engine was asked for each answer and when it made each token. It changes nothing else.

    python recorded.py FILE

FILE is written at the end: an object from a request's seed to {"asked": second, "made": [second of each token]}, on the
clock of `time.perf_counter`, which on Linux and macOS is the same in all processes; and "cpu", what the event loop's
thread had spent by then.
"""

import functools
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Any

from brie_server import __main__ as server
from brie_server.engine.base import Prompt, Token
from brie_server.engine.thread import EngineThread
from brie_server.engine.torch.engine import TorchEngine

Notes = dict[str, dict[str, Any]]


def main() -> None:
    """Serve until told to stop, then write."""
    notes: Notes = defaultdict(lambda: {"asked": 0.0, "made": []})
    _watch(notes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the server raises it again when it has ended
    try:
        server.main()
    finally:
        Path(sys.argv[1]).write_text(json.dumps(notes))


def _watch(notes: Notes) -> None:
    """A token is made when the engine's thread is about to hand it over, not when the event loop finds it."""
    generate: Callable[..., AsyncGenerator[Token, None]] = TorchEngine.generate
    deliver: Callable[..., None] = EngineThread._deliver

    @functools.wraps(generate)
    def asked(engine: TorchEngine, prompt: Prompt) -> AsyncGenerator[Token, None]:
        notes[str(prompt.sampling.seed)] |= {"asked": time.perf_counter(), "cpu": time.thread_time()}
        return generate(engine, prompt)

    @functools.wraps(deliver)
    def made(thread: Any, answers: Iterable[Any]) -> None:
        now, answers = time.perf_counter(), list(answers)
        for request, answer in answers:
            if isinstance(answer, Token):
                notes[str(request.sequence.prompt.sampling.seed)]["made"].append(now)
        deliver(thread, answers)

    setattr(TorchEngine, "generate", asked)  # noqa: B010  # their types are those of what they stand for
    setattr(EngineThread, "_deliver", made)  # noqa: B010


if __name__ == "__main__":
    main()

"""Where an engine's time goes: seconds inside chosen functions, without a change to them. It knows no engine."""

import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Stopwatch:
    """Times functions that nobody else replaces meanwhile; calls of one label must not nest."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def watch(self, owner: type | ModuleType, name: str, label: str) -> None:
        """From now on, time every call of this function or method of `owner`."""
        setattr(owner, name, self._timed(getattr(owner, name), label))

    def reset(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()
        self.calls.clear()

    def _timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[label] += time.perf_counter() - begun
                self.calls[label] += 1

        return timed

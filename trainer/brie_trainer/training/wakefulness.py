"""Whether the machine slept or a step stalled: wall time held against the time that the machine was awake."""

import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_SLEPT_SECONDS = 5.0
_STALLED_TIMES = 5.0
_STALLED_SECONDS = 10.0
_REMEMBERED = 20
_LEAST = 3


def boot_time() -> float:
    """Seconds that nobody can set, those asleep counted: Linux's CLOCK_BOOTTIME, and what macOS calls monotonic.

    Wall time where the system has neither.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.time()


def awake_time() -> float:
    """Seconds that stand still while the machine sleeps."""
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return time.monotonic()


@dataclass(slots=True)
class Wakefulness:
    """Times steps; `awake` stands still while the machine sleeps, `all_time` does not."""

    awake: Callable[[], float] = awake_time
    all_time: Callable[[], float] = boot_time
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """Seconds per token of the last steps: a step of long examples is no stall."""
    began: float = 0.0
    asleep: float | None = None
    """By how much all time was ahead when it was last looked at; only its growth means anything."""

    def begin(self) -> None:
        """A step begins."""
        self.began = self.awake()
        if self.asleep is None:
            self.asleep = self.all_time() - self.began

    def end(self, tokens: int = 1) -> tuple[float, str | None]:
        """The step's seconds awake, and a sentence about whatever was out of the ordinary since the last one."""
        now = self.awake()
        seconds, slept = now - self.began, self._slept(now)
        usual = statistics.median(self.recent) * tokens if len(self.recent) >= _LEAST else None
        self.recent.append(seconds / max(tokens, 1))
        if slept > _SLEPT_SECONDS:
            return seconds, f"the machine slept for {slept:.0f} seconds; they do not count"
        if usual is not None and seconds > max(_STALLED_TIMES * usual, _STALLED_SECONDS):
            return (
                seconds,
                f"it took {seconds:.0f} seconds, where {usual:.1f} are usual: something else needs the machine",
            )
        return seconds, None

    def _slept(self, now: float) -> float:
        """Seconds since this was last asked, or since the first step began."""
        before, self.asleep = self.asleep, self.all_time() - now
        return 0.0 if before is None else self.asleep - before


def keep_awake() -> None:
    """On macOS, no idle sleep for as long as this process lives."""
    if sys.platform == "darwin":
        with suppress(OSError):  # a Mac without it may fall asleep, and that is noticed
            subprocess.Popen(["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())])

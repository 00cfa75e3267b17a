"""Whether the machine slept or a step stalled: wall time held against the time that the machine was awake."""

import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_SLEPT_SECONDS = 5.0
_STALLED_TIMES = 5.0
_STALLED_SECONDS = 10.0
_REMEMBERED = 20
_LEAST = 3


def boot_time() -> float:
    """Seconds since the machine started, those asleep too; wall time where the system does not count them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.time()


@dataclass(slots=True)
class Wakefulness:
    """Times steps; `awake` stands still while the machine sleeps, `all_time` does not."""

    awake: Callable[[], float] = time.monotonic
    all_time: Callable[[], float] = boot_time
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    began: tuple[float, float] = (0.0, 0.0)

    def begin(self) -> None:
        """A step begins."""
        self.began = self.awake(), self.all_time()

    def end(self) -> tuple[float, str | None]:
        """The step's seconds awake, and a sentence about whatever was out of the ordinary."""
        seconds = self.awake() - self.began[0]
        slept = self.all_time() - self.began[1] - seconds
        usual = statistics.median(self.recent) if len(self.recent) >= _LEAST else None
        self.recent.append(seconds)
        if slept > _SLEPT_SECONDS:
            return seconds, f"the machine slept for {slept:.0f} seconds; they do not count"
        if usual is not None and seconds > max(_STALLED_TIMES * usual, _STALLED_SECONDS):
            return (
                seconds,
                f"it took {seconds:.0f} seconds, where {usual:.1f} are usual: something else needs the machine",
            )
        return seconds, None


def keep_awake() -> None:
    """On macOS, no idle sleep for as long as this process lives."""
    if sys.platform == "darwin":
        subprocess.Popen(["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())])

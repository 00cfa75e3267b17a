"""A clock for whatever takes one as a parameter: it stands still until a test moves it."""


class Clock:
    """Seconds, as `time.time` gives them."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

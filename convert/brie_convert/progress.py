"""How far an export has come, in words and as a share of the whole. It knows no stage by name."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of the whole, from 0 to 1."""
Advance = Callable[[float], None]
"""Told how much of one part is done, from 0 to 1."""


def span(progress: Progress, message: str, start: float, end: float) -> Advance:
    """A part of the whole, told at each tenth of it and not at each tensor."""
    told = -1

    def advance(fraction: float) -> None:
        nonlocal told
        if int(fraction * 10) > told:
            told = int(fraction * 10)
            progress(message, round(start + fraction * (end - start), 3))

    return advance

"""Finds stop strings in text that arrives in pieces. It knows strings only."""

from collections.abc import Sequence


class StopStrings:
    """Holds back as much text as might be the beginning of a stop string, and cuts at the first that completes.

    Which one that is does not depend on how the text was cut into pieces: the earliest end counts, then the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """The text that may be shown, and whether a stop string was found; it and what follows are dropped."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _end, start = min(found)
            shown, self._held = self._held[:start], ""
            return shown, True
        keep = self._possible_beginning()
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown, False

    def flush(self) -> str:
        """What was held back, once nothing more will come."""
        rest, self._held = self._held, ""
        return rest

    def _possible_beginning(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

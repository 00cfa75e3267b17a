"""Turns tokens into text as they come, never splitting a character. It knows a decode function, not a model."""

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"


class Detokenizer:
    """Feeds on one answer's tokens; each call returns the text that has become certain.

    Only a window of recent tokens is decoded: a token's text depends on its neighbours (spaces, characters of several
    bytes), but not on what lies further back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._window.append(token)
        before = self._decode(self._window[: self._given])
        text = self._decode(self._window)
        if text.endswith(_UNFINISHED) or len(text) <= len(before):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return text[len(before) :]

    def flush(self) -> str:
        """What is left at the end, unfinished characters as U+FFFD."""
        rest = self._decode(self._window)[len(self._decode(self._window[: self._given])) :]
        self._window, self._given = [], 0
        return rest

"""Special tokens that a conversation only spells, marked as text on the way through a template. It knows no tokenizer.

Whoever may write `<|im_end|>` into a message, and have it read as the token, may end the message and speak in any
role. So a spelling in a message is marked before the template sees it, and what is marked is encoded as plain text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

MARK = "\ufdd0"
"""Stands behind the first character of a spelling. A noncharacter: Unicode sets it apart for a program's own use."""
ANCHOR = "\ufdd1"
"""Another, which an encoder may put before a text, so as to have something for it to follow."""
_OWN = {ord(MARK): None, ord(ANCHOR): None}
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Part of a rendered conversation, which ends before a special token or at the end."""

    text: str
    """Without marks."""
    is_plain: bool
    """Whether what spells a special token in it is text."""
    places: Sequence[int]
    """Where each character of `text` stands in what was rendered, and where its end does."""


class Spellings:
    """The special tokens of one vocabulary, by how they are written."""

    def __init__(self, special: Iterable[str]) -> None:
        names = sorted(filter(None, special), key=len, reverse=True)
        self._special = _any_of([f"{re.escape(name)}(?!{MARK})" for name in names])
        self._marked = _any_of([f"{re.escape(name[0])}{MARK}{re.escape(name[1:])}" for name in names])

    def marked(self, value: _Value) -> _Value:
        """The same with every special token that a string in it spells marked as text.

        What the program sets apart for its own use is left out, or a message could unmake a mark.
        """
        told: Any = value
        if isinstance(value, str):
            clean = value.translate(_OWN) if MARK in value or ANCHOR in value else value
            told = self._special.sub(lambda found: found[0][0] + MARK + found[0][1:], clean)
        elif isinstance(value, Mapping):
            told = {self.marked(key): self.marked(each) for key, each in value.items()}
        elif isinstance(value, list | tuple):
            told = [self.marked(each) for each in value]
        return told  # type: ignore[no-any-return]

    def runs(self, rendered: str) -> list[Run]:
        """What a template made of marked messages, cut where text and special tokens have to be told apart."""
        if MARK not in rendered or not self._marked.search(rendered):
            return [_run(rendered, 0, len(rendered))]
        cuts = sorted({0, len(rendered), *(at for found in self._special.finditer(rendered) for at in found.span())})
        runs, begin = [], 0
        for start, end in pairwise(cuts):
            if not self._marked.search(rendered, start, end):
                continue
            if begin < start:
                runs.append(_run(rendered, begin, start))
            runs.append(self._plain(rendered, start, end))
            begin = end
        return [*runs, _run(rendered, begin, len(rendered))] if begin < len(rendered) else runs

    def _plain(self, rendered: str, start: int, end: int) -> Run:
        marks = {found.start() + 1 for found in self._marked.finditer(rendered, start, end)}
        places = [at for at in range(start, end) if at not in marks]
        return Run(text="".join(rendered[at] for at in places), is_plain=True, places=[*places, end])


def _run(rendered: str, start: int, end: int) -> Run:
    return Run(text=rendered[start:end], is_plain=False, places=range(start, end + 1))


def _any_of(patterns: Sequence[str]) -> "re.Pattern[str]":
    return re.compile("|".join(patterns) or r"(?!)")

"""Finds tool calls in text that arrives in pieces. It knows formats and JSON; no HTTP, no model, no schema.

Text is given out once it cannot be the beginning of a call. A call is given out as it is read, from the moment that
its name and the beginning of its arguments are known. One that turns out to be none is dropped, and its text is text.
What is found does not depend on how the text was cut into pieces: everything is decided character by character.
"""

from collections.abc import Callable
from dataclasses import dataclass

from brie_core.text.tool_formats import ToolFormat
from brie_server.generation.call_object import CallObject

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of the tool `name`; calls are numbered from 0 in the order they begin."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments, in the model's own JSON."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is whole, and its arguments are a JSON object."""

    index: int


@dataclass(frozen=True, slots=True)
class CallDropped:
    """It was no call after all; its text follows, from the mark that opened it."""

    index: int


CallEvent = CallBegun | Arguments | CallEnded | CallDropped
Event = Text | CallEvent


class ToolCallParser:
    """Reads one answer. Calls of other tools than `names` are text."""

    def __init__(self, form: ToolFormat, names: frozenset[str]) -> None:
        self._form, self._names = form, names
        self._events: list[Event] = []
        self._state: Callable[[str], str] = self._in_text
        """Takes a character; returns what is to be read again, in whatever state it leaves."""
        self._held = ""
        """What was read and is neither text nor a call yet."""
        self._num_text = 0
        """So much of it is text if it is no call; the rest is then read again."""
        self._call = CallObject(names)
        self._num_begun = 0
        self._is_begun = False
        self._is_first = True
        """Whether nothing but white space was read."""
        self._follows_call = False

    def add(self, text: str) -> list[Event]:
        """What becomes certain with this text."""
        self._read(text)
        return self._taken()

    def close(self) -> list[Event]:
        """What is left at the answer's end."""
        while self._state in (self._in_series, self._in_call):
            self._read(self._no_call())
        if self._held.strip(_SPACE) or not self._follows_call:
            self._tell_text(self._held)
        self._held = ""
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _read(self, text: str) -> None:
        unread = list(reversed(text))
        while unread:
            unread += reversed(self._state(unread.pop()))

    def _in_text(self, character: str) -> str:
        self._held += character
        if self._form.bare and self._is_first and self._held.lstrip(_SPACE) == "{":
            return self._begin_call()
        begins = _longest_end(self._held, self._form.begin)
        certain = self._held[: len(self._held) - begins].rstrip(_SPACE)
        self._tell_text(certain)
        self._held = self._held[len(certain) :]
        if begins == len(self._form.begin):
            self._state, self._num_text = self._in_series, len(self._held)
        return ""

    def _in_series(self, character: str) -> str:
        """Where a mark was read after which a call may begin."""
        self._held += character
        if character == "{":
            return self._begin_call(num_text=self._num_text)
        is_opening = "".join(self._held.split()) == self._form.begin + self._form.opening
        return "" if character in _SPACE or is_opening else self._no_call()

    def _begin_call(self, num_text: int | None = None) -> str:
        """An object without a mark before it is text up to its bracket, if it is no call."""
        self._num_text = len(self._held) if num_text is None else num_text
        self._state, self._call, self._is_begun = self._in_call, CallObject(self._names), False
        self._is_first = False
        self._call.add("{")
        return ""

    def _in_call(self, character: str) -> str:
        self._held += character
        if not self._call.add(character):
            return self._no_call()
        self._tell_call()
        if self._call.is_whole:
            self._events.append(CallEnded(self._num_begun - 1))
            self._state, self._held, self._follows_call = self._after_call, "", True
        return ""

    def _after_call(self, character: str) -> str:
        self._held += character
        form, mark = self._form, self._held.strip(_SPACE)
        if not mark:
            return ""
        if mark == "{" and form.bare:
            return self._begin_call()
        if mark == form.between:
            self._state, self._num_text = self._in_series, len(self._held)
        elif mark == form.end:
            self._state, self._held = self._in_text, ""
        elif not form.end.startswith(mark):
            self._state, again, self._held = self._in_text, self._held, ""
            return again
        return ""

    def _no_call(self) -> str:
        """The mark is text; what came after it may yet hold another."""
        if self._state == self._in_call and self._is_begun:
            self._events.append(CallDropped(self._num_begun - 1))
        again = self._held[self._num_text :]
        self._tell_text(self._held[: self._num_text])
        self._state, self._held = self._in_text, ""
        return again

    def _tell_call(self) -> None:
        fragment = self._call.fresh_arguments()
        if fragment is None:
            return
        if not self._is_begun:
            self._events.append(CallBegun(self._num_begun, self._call.name or ""))
            self._is_begun, self._num_begun = True, self._num_begun + 1
        index, last = self._num_begun - 1, self._events[-1] if self._events else None
        if isinstance(last, Arguments):
            self._events[-1] = Arguments(index, last.text + fragment)
        elif fragment:
            self._events.append(Arguments(index, fragment))

    def _tell_text(self, text: str) -> None:
        if not text:
            return
        self._is_first = self._follows_call = False
        last = self._events[-1] if self._events else None
        if isinstance(last, Text):
            self._events[-1] = Text(last.text + text)
        else:
            self._events.append(Text(text))


def _longest_end(text: str, mark: str) -> int:
    """Length of the longest end of `text` that `mark` begins with."""
    for length in range(min(len(text), len(mark)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0

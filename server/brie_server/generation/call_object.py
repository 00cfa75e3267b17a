"""Reads the JSON object of one tool call, character by character. It knows JSON, and not what surrounds a call.

What cannot become a call is found at the first character that shows it, so that little text is held back in vain.
"""

import json
from typing import Any

_ARGUMENTS = ("arguments", "parameters")
_FIRST_KEYS = ("name", *_ARGUMENTS, "type", "id")
_OUTSIDE_STRINGS = frozenset(' \t\n\r{}[]:,"+-.0123456789eEtrufalsn')
_CLOSED_BY = {"{": "}", "[": "]"}
_MOST_DEPTH = 64


class CallObject:
    """`{"name": ..., "arguments": {...}}` in the making; keys may come in any order."""

    def __init__(self, names: frozenset[str]) -> None:
        self.name: str | None = None
        """Known once it was read whole; one of `names`."""
        self.is_whole = False
        self._names = names
        self._text: list[str] = []
        self._open: list[str] = []
        self._string_from: int | None = None
        self._is_escaped = False
        self._key: str | None = None
        self._has_colon = False
        self._num_keys = 0
        self._span: tuple[int, int | None] | None = None
        """Where the arguments begin and end in the text, if they are an object."""
        self._given = 0

    def add(self, character: str) -> bool:
        """False once this can no longer become a call; nothing may be added after that, nor once it is whole."""
        self._text.append(character)
        if self._string_from is not None:
            return self._inside_string(character)
        if character not in _OUTSIDE_STRINGS:
            return False
        if character == '"':
            self._string_from = len(self._text) - 1
        elif character in "{[":
            return self._opened(character)
        elif character in "}]":
            return self._closed(character)
        elif len(self._open) == 1:
            self._between_values(character)
        return True

    def fresh_arguments(self) -> str | None:
        """What has become certain of the arguments since this was last asked; None before the name is known, too."""
        if self.name is None or self._span is None:
            return None
        begin, end = self._span
        begin, self._given = max(begin, self._given), end or len(self._text)
        return "".join(self._text[begin : self._given])

    def _inside_string(self, character: str) -> bool:
        if character < " ":
            return False  # JSON wants them escaped
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            begin, self._string_from = self._string_from, None
            return len(self._open) != 1 or self._string_read("".join(self._text[begin:]))
        return True

    def _string_read(self, spelled: str) -> bool:
        """A key of the call, or one of its values."""
        try:
            string = json.loads(spelled)
        except ValueError:
            return False
        if not self._has_colon:
            return self._key_read(string)
        if self._key == "name":
            self.name = string
            return string in self._names
        return True

    def _key_read(self, key: str) -> bool:
        """The first key tells an ordinary object from a call; the keys that count may stand there once."""
        self._key = "arguments" if key in _ARGUMENTS else key
        self._num_keys += 1
        is_again = (self._key == "name" and self.name is not None) or (self._key == "arguments" and self._span)
        return not is_again and (self._num_keys > 1 or key in _FIRST_KEYS)

    def _between_values(self, character: str) -> None:
        if character == ":":
            self._has_colon = True
        elif character == ",":
            self._key, self._has_colon = None, False

    def _opened(self, bracket: str) -> bool:
        if len(self._open) == 1 and self._has_colon and self._key == "arguments":
            self._span = (len(self._text) - 1, None)
        self._open.append(bracket)
        return len(self._open) <= _MOST_DEPTH

    def _closed(self, bracket: str) -> bool:
        if not self._open or _CLOSED_BY[self._open.pop()] != bracket:
            return False
        if len(self._open) == 1 and self._span and self._span[1] is None:
            self._span = (self._span[0], len(self._text))
        return bool(self._open) or self._judge()

    def _judge(self) -> bool:
        """The object is complete: is it JSON, and a call?"""
        try:
            call = json.loads("".join(self._text))
        except ValueError:
            return False
        self.is_whole = self.name is not None and call.get("name") == self.name and self._has_arguments(call)
        return self.is_whole

    def _has_arguments(self, call: dict[str, Any]) -> bool:
        """Those that are no object stand for one if they are missing, null, or a string that spells one."""
        given = next((call[key] for key in _ARGUMENTS if key in call), None)
        if self._span:
            return isinstance(given, dict)
        spelled = "{}" if given is None else given
        try:
            arguments = json.loads(spelled) if isinstance(spelled, str) else None
        except (ValueError, RecursionError):
            return False
        if not isinstance(arguments, dict):
            return False
        self._span, self._text = (0, None), list(json.dumps(arguments))
        return True

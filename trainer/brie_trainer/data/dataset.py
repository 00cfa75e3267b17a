"""Training rows from a JSON Lines file, one at a time, each in the form its file is in. It knows no token.

A file holds one form, which its first row shows. Errors name the line, what is wrong with it and what it should be.
"""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brie_core.errors import InvalidDataset
from brie_core.jsonl import read_rows
from brie_trainer.data.answer_rows import (
    completion_of,
    openai_preference_of,
    preference_of,
    rating_of,
    ratings_of,
    sharegpt_of,
    text_of_row,
)
from brie_trainer.data.chat_rows import conversation_of
from brie_trainer.data.rows import (
    FILE_PARAMS,
    METHODS,
    Completion,
    Conversation,
    FileParam,
    Learnable,
    Method,
    Preference,
    Rating,
    Row,
)

__all__ = [
    "FILE_PARAMS",
    "METHODS",
    "FileParam",
    "Form",
    "Method",
    "called",
    "invalid",
    "read_conversations",
    "read_preferences",
    "read_ratings",
    "stream_dataset",
]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write a row."""

    name: str
    takes: tuple[Method, ...]
    read: Callable[[Mapping[str, Any]], Row]


_SUPERVISED: tuple[Method, ...] = ("supervised",)
_PREFERENCES: tuple[Method, ...] = ("dpo", "kto")
_CHAT = Form("a conversation", _SUPERVISED, conversation_of)
_SHAREGPT = Form("a ShareGPT conversation", _SUPERVISED, sharegpt_of)
_COMPLETION = Form("a prompt with its completion", _SUPERVISED, completion_of)
_TEXT = Form("a text", _SUPERVISED, text_of_row)
_OPENAI_PREFERENCE = Form("a preference", _PREFERENCES, openai_preference_of)
_PREFERENCE = Form("a preference of 'chosen' over 'rejected'", _PREFERENCES, preference_of)
_RATING = Form("a rated answer", ("kto",), rating_of)

_AS_TEXT = {form: replace(form, name=f"{form.name}, of texts") for form in (_COMPLETION, _PREFERENCE, _RATING)}
"""With a prompt that is a string: how it is trained differs, so that it is another form."""

_FORMS = (
    ({"chosen", "rejected"}, _PREFERENCE),
    ({"preferred_output"}, _OPENAI_PREFERENCE),
    ({"non_preferred_output"}, _OPENAI_PREFERENCE),
    ({"messages"}, _CHAT),
    ({"conversations"}, _SHAREGPT),
    ({"prompt", "completion"}, _COMPLETION),
    ({"text"}, _TEXT),
)
_WANTED: Mapping[Method, str] = {
    "supervised": '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    "dpo": '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}',
    "kto": '{"prompt": [...], "completion": [...], "label": true}',
}


def stream_dataset(file: Path, param: FileParam, method: Method) -> Iterator[tuple[int, Row]]:
    """Each row with its line's number; InvalidDataset at the first faulty line, and for a file without rows.

    For `kto` a preference comes as two ratings of one line.
    """
    first: tuple[int, Form] | None = None
    for number, row in _rows(file, param):
        try:
            form = _form(row)
            first = first or (number, form)
            read = _read(row, form, first, method)
        except ValueError as error:
            raise invalid(f"Line {number} of the {called(param)} {error}", param) from error
        except RecursionError as error:
            raise invalid(f"Line {number} of the {called(param)} is nested too deeply.", param) from error
        yield from ((number, each) for each in read)
    if first is None:
        raise invalid(f"The {called(param)} has no rows.", param)


def read_conversations(file: Path, param: FileParam) -> list[Learnable]:
    """All rows to learn from by `supervised`."""
    return [row for _, row in stream_dataset(file, param, "supervised") if isinstance(row, Conversation | Completion)]


def read_preferences(file: Path, param: FileParam) -> list[Preference]:
    """All rows to learn from by `dpo`."""
    return [row for _, row in stream_dataset(file, param, "dpo") if isinstance(row, Preference)]


def read_ratings(file: Path, param: FileParam) -> list[Rating]:
    """All rows to learn from by `kto`."""
    return [row for _, row in stream_dataset(file, param, "kto") if isinstance(row, Rating)]


def called(param: FileParam) -> str:
    """The file in words."""
    return param.replace("_", " ")


def invalid(message: str, param: FileParam) -> InvalidDataset:
    """The error of a file that cannot be trained on."""
    return InvalidDataset(message, param=param, code=f"invalid_{param}")


def _rows(file: Path, param: FileParam) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from read_rows(file, param=param)
    except InvalidDataset as error:
        raise invalid(error.message, param) from error


def _form(row: Mapping[str, Any]) -> Form:
    is_rated = isinstance(row.get("label"), bool) or ("label" in row and "completion" in row)
    form = _RATING if is_rated else next((form for names, form in _FORMS if names <= row.keys()), None)
    if form is None:
        keys = reprlib.repr(sorted(row))
        raise ValueError(f"has no form that is known: its keys are {keys}. Write it as {_WANTED['supervised']}.")
    is_text = isinstance(row.get("prompt"), str) and not isinstance(row.get("chosen"), list)
    return _AS_TEXT.get(form, form) if is_text else form


def _read(row: Mapping[str, Any], form: Form, first: tuple[int, Form], method: Method) -> Sequence[Row]:
    if method not in form.takes:
        raise ValueError(
            f"is {form.name}, from which the method {method} cannot learn. Train it by {' or '.join(form.takes)}, "
            f"or write it as {_WANTED[method]}."
        )
    if form is not first[1]:
        raise ValueError(f"is {form.name}, but line {first[0]} is {first[1].name}: a file holds one form of rows.")
    read = form.read(row)
    return ratings_of(read) if method == "kto" and isinstance(read, Preference) else (read,)

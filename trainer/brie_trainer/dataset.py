"""Training rows from a JSON Lines file, checked one by one. It knows OpenAI's chat rows, not tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from brie_core.errors import InvalidDataset
from brie_core.jsonl import read_rows

_ROLES = ("system", "developer", "user", "assistant")
_UNSUPPORTED = ("tool_calls", "function_call", "tool_call_id")

FileParam = Literal["training_file", "validation_file"]
FILE_PARAMS: tuple[FileParam, ...] = ("training_file", "validation_file")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    trained: bool
    """Whether the loss counts its tokens; only ever true of the assistant's."""

    def as_message(self) -> dict[str, str]:
        """As a chat template reads it."""
        return {"role": self.role, "content": self.content}


Conversation = Sequence[Turn]


def read_conversations(file: Path, param: FileParam) -> list[Conversation]:
    """All rows, or InvalidDataset with the first faulty line."""
    conversations = []
    for number, row in _rows(file, param):
        try:
            conversations.append(_conversation(row))
        except ValueError as error:
            raise _invalid(f"Line {number} of the {_called(param)} {error}", param) from error
    if not conversations:
        raise _invalid(f"The {_called(param)} has no rows.", param)
    return conversations


def _rows(file: Path, param: FileParam) -> Sequence[tuple[int, dict[str, Any]]]:
    try:
        return list(read_rows(file, param=param))
    except InvalidDataset as error:
        raise _invalid(error.message, param) from error


def _conversation(row: Mapping[str, Any]) -> Conversation:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError('has no list \'messages\': each row is {"messages": [{"role": ..., "content": ...}, ...]}.')
    for name in ("tools", "functions"):
        if row.get(name):
            raise ValueError(f"has {name!r}, which cannot be trained on yet.")
    turns = [_turn(message, number) for number, message in enumerate(messages)]
    first = next((turn.role for turn in turns if turn.role != "system"), None)
    if first == "assistant":
        raise ValueError("begins with an assistant message: an answer needs the user's question before it.")
    if turns[-1].role != "assistant":
        raise ValueError(f"ends with a message of role {turns[-1].role!r}: the last message must be the assistant's.")
    if not any(turn.trained for turn in turns):
        raise ValueError("has no assistant message to learn from: every one has weight 0.")
    return turns


def _turn(message: Any, number: int) -> Turn:
    where = f"has a fault in messages[{number}]:"
    if not isinstance(message, dict):
        raise ValueError(f"{where} it is not an object.")
    role, content, weight = message.get("role"), message.get("content"), message.get("weight", 1)
    if role not in _ROLES:
        raise ValueError(f"{where} role is {role!r}, not one of {', '.join(_ROLES)}.")
    if found := [name for name in _UNSUPPORTED if message.get(name)]:
        raise ValueError(f"{where} {found[0]} cannot be trained on yet.")
    if isinstance(weight, bool) or weight not in (0, 1) or ("weight" in message and role != "assistant"):
        raise ValueError(f"{where} weight must be 0 or 1, and stand on assistant messages only.")
    text = _text(content, where)
    return Turn("system" if role == "developer" else role, text, trained=role == "assistant" and weight == 1)


def _text(content: Any, where: str) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"{where} content must be a string or a list of text parts.")
    text = "".join(part["text"] for part in parts)
    if not text.strip():
        raise ValueError(f"{where} content is empty.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{where} content has half of a surrogate pair, which is no character.")
    return text


def _called(param: FileParam) -> str:
    return param.replace("_", " ")


def _invalid(message: str, param: FileParam) -> InvalidDataset:
    return InvalidDataset(message, param=param, code=f"invalid_{param}")

"""OpenAI's chat rows to conversations: roles, weights, tools and calls, each checked. It knows no file and no token.

A fault is a ValueError whose text goes on after "Line 7 of the training file".
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from brie_core.text.messages import template_call
from brie_trainer.data.chat_tools import tools_of
from brie_trainer.data.rows import Conversation, Turn

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MAY_BE_EMPTY = ("system", "developer", "tool", "function")
_MOST_MESSAGES = 4096
_SURROGATE = re.compile("[\ud800-\udfff]")
_CALL = (
    'each of tool_calls must be {"id": "...", "type": "function", "function": {"name": "...", "arguments": "{...}"}}, '
    "with the arguments as a string of JSON."
)


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """A row {"messages": [...], "tools": [...]}; what the assistant says is learnt, unless its weight is 0."""
    turns = turns_of(row.get("messages"), "messages")
    if turns[-1].role != "assistant":
        raise ValueError(f"ends with a message of role {turns[-1].role!r}: the last message must be the assistant's.")
    if not any(turn.trained for turn in turns):
        raise ValueError("has no assistant message to learn from: every one has weight 0.")
    return Conversation(turns, tools_of(row))


def turns_of(messages: Any, name: str) -> list[Turn]:
    """A list of messages; `name` is what the row calls it."""
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'has no list {name!r}: it must be [{{"role": "user", "content": "..."}}, ...].')
    if len(messages) > _MOST_MESSAGES:
        raise ValueError(f"has {len(messages)} messages in {name!r}: the API takes at most {_MOST_MESSAGES}.")
    turns: list[Turn] = []
    open_calls: dict[str, str] = {}
    for number, message in enumerate(messages):
        try:
            turn = _turn(message, number, open_calls)
        except ValueError as error:
            raise ValueError(f"has a fault in {name}[{number}]: {error}") from error
        turns.append(turn)
        _follow_calls(turn, open_calls, f"{name}[{number}]")
    _check_beginning(turns)
    return turns


def text_of(content: Any, *, may_be_empty: bool = False) -> str:
    """A string, or OpenAI's list of text parts joined."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    kinds = [part.get("type") for part in parts if isinstance(part, dict)]
    if others := [kind for kind in kinds if isinstance(kind, str) and kind != "text"]:
        raise ValueError(f"content has a part of type {reprlib.repr(others[0])}: only text can be trained on.")
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise ValueError("content must be a string or a list of text parts.")
    text = "".join(part["text"] for part in parts)
    if not text.strip() and not may_be_empty:
        raise ValueError("content is empty.")
    return checked_text(text)


def checked_text(text: str) -> str:
    """The text itself, if UTF-8 can hold it."""
    if _SURROGATE.search(text):
        raise ValueError("content has half of a surrogate pair, which is no character.")
    return text


def _check_beginning(turns: Sequence[Turn]) -> None:
    first = next((turn.role for turn in turns if turn.role != "system"), None)
    if first == "assistant":
        raise ValueError("begins with an assistant message: an answer needs the user's question before it.")


def _turn(message: Any, number: int, open_calls: Mapping[str, str]) -> Turn:
    if not isinstance(message, dict):
        raise ValueError("it is not an object.")
    role, weight = message.get("role"), message.get("weight", 1)
    if role not in _ROLES:
        raise ValueError(f"role is {reprlib.repr(role)}, not one of {', '.join(_ROLES[:-1])}.")
    if isinstance(weight, bool) or weight not in (0, 1) or ("weight" in message and role != "assistant"):
        raise ValueError("weight must be 0 or 1, and stand on assistant messages only.")
    calls = _calls(message, number)
    if calls and role != "assistant":
        raise ValueError("only messages of the role 'assistant' call functions.")
    if message.get("audio"):
        raise ValueError("audio cannot be trained on.")
    content = message.get("content")
    may_be_empty = bool(calls) or role in _MAY_BE_EMPTY or weight == 0
    text = "" if content is None and calls else text_of(content, may_be_empty=may_be_empty)
    if role in {"tool", "function"}:
        return _result(message, text, open_calls)
    return Turn("system" if role == "developer" else role, text, role == "assistant" and weight == 1, calls)


def _calls(message: Mapping[str, Any], number: int) -> tuple[Mapping[str, Any], ...]:
    given = message.get("tool_calls") or []
    if not isinstance(given, list):
        raise ValueError("tool_calls is not a list.")
    if message.get("function_call"):  # the form before calls had ids; nine characters, as Mistral's templates insist on
        given = [*given, {"id": f"call{number:05}", "function": message["function_call"]}]
    return tuple(_call(call) for call in given)


def _call(call: Any) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError(_CALL)
    call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if not (isinstance(call_id, str) and call_id and isinstance(name, str) and name and isinstance(arguments, str)):
        raise ValueError(_CALL)
    told = template_call(checked_text(call_id), checked_text(name), arguments)
    if not isinstance(told["function"]["arguments"], dict):
        raise ValueError(
            f"the arguments of the call of {reprlib.repr(name)} are not a JSON object: {arguments[:60]!r}."
        )
    return told


def _result(message: Mapping[str, Any], text: str, open_calls: Mapping[str, str]) -> Turn:
    call_id = message.get("tool_call_id")
    if message["role"] == "function":
        call_id = next((known for known, name in open_calls.items() if name == message.get("name")), None)
    if call_id is None:
        raise ValueError("it answers no call: a tool's result names its call in tool_call_id.")
    if not isinstance(call_id, str) or call_id not in open_calls:
        raise ValueError(
            f"it answers the call {reprlib.repr(call_id)}, which the assistant's message before it does not make."
        )
    return Turn("tool", text, trained=False, call_id=call_id, called=open_calls[call_id])


def _follow_calls(turn: Turn, open_calls: dict[str, str], where: str) -> None:
    """Keep `open_calls`, by id the names of functions that were called and have not answered."""
    if turn.role == "tool":
        del open_calls[turn.call_id or ""]
        return
    if open_calls:
        raise ValueError(
            f"has a fault in {where}: the call {next(iter(open_calls))!r} before it is not answered: "
            "a message of the role 'tool' must follow for each call."
        )
    for call in turn.calls:
        if call["id"] in open_calls:
            raise ValueError(f"has a fault in {where}: two calls have the id {call['id']!r}.")
        open_calls[call["id"]] = call["function"]["name"]

"""ShareGPT's rows to OpenAI's messages. It knows the two vocabularies, and checks only what they do not share."""

import reprlib
from collections.abc import Mapping
from typing import Any

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
}
_CALLS = ("tool", "function_call", "observation", "tool_call", "tool_response", "function_response")


def messages_of(turns: Any) -> list[Any]:
    """`conversations`, a list of {"from": ..., "value": ...}, as messages."""
    if not isinstance(turns, list) or not turns:
        raise ValueError('has no list \'conversations\': it must be [{"from": "human", "value": "..."}, ...].')
    return [_message(turn, number) for number, turn in enumerate(turns)]


def _message(turn: Any, number: int) -> Any:
    where = f"has a fault in conversations[{number}]:"
    if not isinstance(turn, Mapping):
        raise ValueError(f"{where} it is not an object.")
    if "role" in turn:  # some files of this name hold OpenAI's messages
        return turn
    said_by = turn.get("from")
    if said_by in _CALLS:
        raise ValueError(
            f"{where} calls and results have no ids here, and each dataset writes them differently: "
            "rewrite the row in OpenAI's form, with 'messages', 'tool_calls' and 'tool_call_id'."
        )
    if not isinstance(said_by, str) or said_by not in _ROLES:
        raise ValueError(f"{where} 'from' is {reprlib.repr(said_by)}, not one of system, human and gpt.")
    weight = {"weight": turn["weight"]} if "weight" in turn else {}
    return {"role": _ROLES[said_by], "content": turn.get("value"), **weight}

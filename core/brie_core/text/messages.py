"""Messages, calls and tools in the form that templates expect, for training and serving alike. It knows no template.

The form is the one that transformers documents for `apply_chat_template`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from brie_core.text.chat_template import Message, Tool

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def template_message(
    role: str,
    content: str | None,
    *,
    calls: Sequence[Mapping[str, Any]] = (),
    call_id: str | None = None,
    called: str | None = None,
) -> Message:
    """One message; `call_id` and `called` are the call that a tool's result answers and the function it called.

    OpenAI's newer name for the system role is unknown to most templates; null content breaks some.
    """
    told: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content or ""}
    if calls:
        told["tool_calls"] = list(calls)
    if call_id is not None:
        told["tool_call_id"] = call_id
        told |= {"name": called} if called else {}
    return told


def template_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """One call of an assistant's; `arguments` is JSON as the model wrote it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}


def template_tool(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> Tool:
    """One function that an answer may call; `parameters` is its JSON schema."""
    told: dict[str, Any] = {"name": name}
    if description is not None:
        told["description"] = description
    told["parameters"] = parameters or _NO_PARAMETERS
    return {"type": "function", "function": told}


def _arguments(spelled: str) -> Any:
    """An object where they are one: templates write JSON themselves. What cannot be written again stays a string."""
    try:
        arguments = json.loads(spelled.strip() or "{}")
        json.dumps(arguments, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return spelled
    return arguments if isinstance(arguments, dict) else spelled

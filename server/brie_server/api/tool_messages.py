"""Messages, tools and the choice among them from the wire to what templates expect. It knows no template."""

import json
from collections.abc import Sequence
from typing import Any

from brie_core.text.chat_template import Message, Tool
from brie_server.generation.tool_prompt import Offer
from brie_server.schema.chat import ChatRequest
from brie_server.schema.messages import ChatMessage, MessageCall
from brie_server.schema.responses import Asking
from brie_server.schema.tools import ChosenTool, Function

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def template_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """In the form that transformers documents; a result is told with the name of the function that was called."""
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    return [_message(message, names.get(message.tool_call_id or "")) for message in messages]


def offer_of(body: ChatRequest | Asking) -> Offer | None:
    """The tools as they are shown and may be called; None where there are none, or where none may be called."""
    choice = body.tool_choice
    if not body.tools or choice == "none":
        return None
    only = choice.name if isinstance(choice, ChosenTool) else None
    return Offer(
        tools=tuple(_tool(tool.function) for tool in body.tools),
        must_call=choice == "required",
        only=only,
        ends_after_one=only is not None or body.parallel_tool_calls is False,
        strict=frozenset(tool.function.name for tool in body.tools if tool.function.strict),
    )


def _message(message: ChatMessage, called: str | None) -> Message:
    """OpenAI's newer name for the system role is unknown to most templates; null content breaks some."""
    role = "system" if message.role == "developer" else message.role
    told: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.tool_calls:
        told["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
        told |= {"name": called} if called else {}
    return told


def _call(call: MessageCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(spelled: str) -> Any:
    """An object where they are one: templates write JSON themselves. What cannot be written again stays a string."""
    try:
        arguments = json.loads(spelled.strip() or "{}")
        json.dumps(arguments, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return spelled
    return arguments if isinstance(arguments, dict) else spelled


def _tool(function: Function) -> Tool:
    told: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        told["description"] = function.description
    told["parameters"] = function.parameters or _NO_PARAMETERS
    return {"type": "function", "function": told}

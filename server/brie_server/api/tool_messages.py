"""Messages, tools and the choice among them from the wire to what templates expect. It knows no template."""

from collections.abc import Sequence

from brie_core.text.chat_template import Message, Tool
from brie_core.text.messages import template_call, template_message, template_tool
from brie_server.generation.tool_prompt import Offer
from brie_server.schema.chat import ChatRequest
from brie_server.schema.messages import ChatMessage
from brie_server.schema.responses import Asking
from brie_server.schema.tools import ChosenTool, Function


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
    calls = [template_call(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return template_message(message.role, message.content, calls=calls, call_id=message.tool_call_id, called=called)


def _tool(function: Function) -> Tool:
    return template_tool(function.name, function.description, function.parameters)

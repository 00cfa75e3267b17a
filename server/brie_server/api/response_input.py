"""Items of a response's input to the form they are kept in, and from there to chat messages. Pure; it knows no store.

Kept items have the form in which OpenAI lists them: each with an id, and all content as parts. References are resolved
before, by whoever has the store.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from brie_core.errors import InvalidRequest
from brie_server.schema.messages import CalledFunction, ChatMessage, MessageCall
from brie_server.schema.response_items import InputItem, TextPart

KeptItem = Mapping[str, Any]


def kept_item(item: InputItem, item_id: str) -> KeptItem:
    """The item as it is kept; it must not be a reference."""
    common = {"id": item_id, "type": item.type, "status": "completed"}
    if item.type == "function_call":
        return common | {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
    if item.type == "function_call_output":
        return common | {"call_id": item.call_id, "output": _text(item.output)}
    part: dict[str, Any] = {"type": "input_text"}
    if item.role == "assistant":
        part = {"type": "output_text", "annotations": [], "logprobs": []}
    return common | {"role": item.role, "content": [part | {"text": each.text} for each in item.content or ()]}


def check_results(items: Sequence[KeptItem], first: int) -> None:
    """Raises InvalidRequest for a result, from the item `first` on, that no call before it asked for.

    A model that is shown one could only guess what it answers.
    """
    called = set()
    for number, item in enumerate(items):
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in called and number >= first:
            raise InvalidRequest(
                f"No function call {item['call_id']!r} comes before this output: send the call too, or continue the "
                "response that made it by previous_response_id.",
                param=f"input[{number - first}].call_id",
                code="invalid_value",
            )


def chat_messages(instructions: str | None, items: Sequence[KeptItem]) -> list[ChatMessage]:
    """The conversation: what is one turn of the assistant's, text and calls, is one message."""
    messages = [ChatMessage(role="system", content=instructions)] if instructions else []
    for item in items:
        message = _message(item)
        last = messages[-1] if messages else None
        if last is not None and last.role == message.role == "assistant" and (message.tool_calls or last.tool_calls):
            messages[-1] = _joined(last, message)
        else:
            messages.append(message)
    return messages


def _message(item: KeptItem) -> ChatMessage:
    if item["type"] == "function_call":
        function = CalledFunction(name=item["name"], arguments=item["arguments"])
        return ChatMessage(role="assistant", tool_calls=[MessageCall(id=item["call_id"], function=function)])
    if item["type"] == "function_call_output":
        return ChatMessage(role="tool", tool_call_id=item["call_id"], content=item["output"])
    return ChatMessage(role=item["role"], content="".join(part["text"] for part in item["content"]))


def _joined(first: ChatMessage, second: ChatMessage) -> ChatMessage:
    texts = [message.content for message in (first, second) if message.content]
    calls = [*(first.tool_calls or ()), *(second.tool_calls or ())]
    return first.model_copy(update={"content": "\n".join(texts) or None, "tool_calls": calls})


def _text(parts: Sequence[TextPart] | None) -> str:
    return "".join(part.text for part in parts or ())

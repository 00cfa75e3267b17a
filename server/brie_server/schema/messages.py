"""The messages of a conversation on the wire. It knows which fields go with which role, and no model."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from brie_server.schema.common import Body, Ignored, Name, Refused
from brie_server.schema.conditions import CONTENT, MESSAGE
from brie_server.schema.tools import MOST_TOOLS


def _role(role: Any) -> Any:
    if role == "function":
        raise ValueError("'function' is no longer used: send role 'tool', with the tool_call_id of the call it answers")
    return role


def _of_assistant(calls: "list[MessageCall] | None", info: ValidationInfo) -> "list[MessageCall] | None":
    if calls and info.data.get("role") not in ("assistant", None):
        raise ValueError("only messages of the role 'assistant' have tool calls")
    return calls


def _of_result(call_id: str | None, info: ValidationInfo) -> str | None:
    role = info.data.get("role")
    if role == "tool" and call_id is None:
        raise ValueError("a message of the role 'tool' must name the call it answers")
    if role not in ("tool", None) and call_id is not None:
        raise ValueError("only messages of the role 'tool' answer a call")
    return call_id


def _text(content: Any) -> Any:
    """Content as one string: OpenAI allows a string or a list of parts, of which Brie reads those of type text."""
    if not isinstance(content, list):
        return content
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"part {number} is {kind!r}; this model reads only parts of type 'text'")
        texts.append(part["text"])
    return "".join(texts)


def _unless_calls(content: str | None, info: ValidationInfo) -> str | None:
    """Where tool_calls are at fault, they are what is told."""
    if content is None and "tool_calls" in info.data and not info.data["tool_calls"]:
        raise ValueError("must be a string or a list of text parts; only an assistant's tool_calls may stand without")
    return content


class CalledFunction(Body):
    """Which function was called, and with what."""

    name: Name
    arguments: str
    """JSON, as the model wrote it."""


class MessageCall(Body):
    """A call that the assistant made in an earlier turn."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction


Calls = Annotated[list[MessageCall], Field(max_length=MOST_TOOLS)]


class ChatMessage(Body):
    """One turn of the conversation. The order of the fields is that in which they are checked."""

    model_config = ConfigDict(json_schema_extra=MESSAGE)

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_role)]
    tool_calls: Annotated[Calls | None, AfterValidator(_of_assistant)] = None
    tool_call_id: Annotated[Name | None, AfterValidator(_of_result), Field(validate_default=True)] = None
    content: Annotated[
        str | None,
        BeforeValidator(_text),
        AfterValidator(_unless_calls),
        WithJsonSchema(CONTENT),
        Field(validate_default=True),
    ] = None
    name: Ignored = None
    function_call: Refused = None
    refusal: Ignored = None
    audio: Refused = None

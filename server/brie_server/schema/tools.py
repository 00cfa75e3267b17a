"""Tools, the choice among them, and calls of them on the wire. It knows no format in which a model writes them."""

import json
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)

from brie_core.wire import Wire
from brie_server.schema.common import Body, Flag

MOST_TOOLS = 128


def _tellable(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema is shown to the model as JSON text, which has to be possible."""
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError("holds a number or a character that JSON text cannot hold") from error
    return schema


Parameters = Annotated[dict[str, Any], AfterValidator(_tellable)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Body):
    """A function that an answer may call."""

    name: ToolName
    description: str | None = None
    parameters: Parameters | None = None
    strict: Flag | None = None


class FunctionTool(Body):
    """OpenAI's wrapping of it."""

    type: Literal["function"]
    function: Function


class Offered(Protocol):
    """A tool, however it is wrapped."""

    @property
    def function(self) -> Function:
        """The function itself."""
        ...


_Tool = TypeVar("_Tool", bound=Offered)


def each_once(tools: list[_Tool]) -> list[_Tool]:
    """The tools; ValueError where two have one name."""
    if len({tool.function.name for tool in tools}) < len(tools):
        raise ValueError("two tools have the same name")
    return tools


Tools = Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS), AfterValidator(each_once)]


class ChosenTool(BaseModel):
    """The one tool that an answer has to call."""

    name: str


def _choice(choice: Any, info: ValidationInfo) -> Any:
    """Checked as one value, so that the fault is told of tool_choice and not of one of its two forms."""
    if choice in ("none", "auto", None):
        return choice
    if "tools" not in info.data:
        return "auto"  # they are at fault, and are told
    names = [tool.function.name for tool in info.data["tools"] or ()]
    if choice == "required" and names:
        return choice
    name = _chosen_name(choice)
    if choice != "required" and name is None:
        raise ValueError('must be "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}')
    if name is None or name not in names:
        raise ValueError("there is no such tool among tools" if name else "there are no tools to choose from")
    return ChosenTool(name=name)


def _chosen_name(choice: Any) -> str | None:
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
    ]
}
ToolChoice = Annotated[
    Literal["none", "auto", "required"] | ChosenTool, BeforeValidator(_choice), WithJsonSchema(_CHOICE)
]


class AnswerFunction(Wire):
    """Which function, and its arguments as JSON text."""

    name: str
    arguments: str


class AnswerCall(Wire):
    """A call in a whole answer."""

    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


OfCalls = Annotated[list[AnswerCall] | None, Field(exclude_if=lambda calls: calls is None)]
"""Sent only where there are some."""


class DeltaFunction(Wire):
    """What a chunk adds to one; what is not set is not sent."""

    name: str | None = None
    arguments: str


class DeltaCall(Wire):
    """What a chunk adds to a call: id, type and name come with its first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: DeltaFunction

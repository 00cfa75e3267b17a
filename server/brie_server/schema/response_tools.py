"""Tools and the choice among them as the Responses API has them: what chats wrap in `function` lies flat here."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from brie_server.schema.common import Body, Flag
from brie_server.schema.tools import MOST_TOOLS, Function, Parameters, ToolChoice, ToolName, each_once


def _only_function(kind: Any) -> Any:
    if kind != "function":
        raise ValueError(f"{str(kind)[:40]!r} is not supported: this server has no tools of its own, only functions")
    return kind


class FlatTool(Body):
    """A function that an answer may call. The order of the fields is that in which they are checked."""

    type: Annotated[Literal["function"], BeforeValidator(_only_function)]
    name: ToolName
    description: str | None = None
    parameters: Parameters | None = None
    strict: Flag | None = None

    @property
    def function(self) -> Function:
        """As chats have it."""
        return Function(name=self.name, description=self.description, parameters=self.parameters, strict=self.strict)


FlatTools = Annotated[list[FlatTool], Field(max_length=MOST_TOOLS), AfterValidator(each_once)]


def _wrapped(choice: Any) -> Any:
    """As chats have it."""
    if choice in (None, "none", "auto", "required"):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise ValueError('must be "none", "auto", "required" or {"type": "function", "name": "..."}')


_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
            "required": ["type", "name"],
        },
    ]
}
FlatToolChoice = Annotated[ToolChoice, BeforeValidator(_wrapped), WithJsonSchema(_CHOICE)]

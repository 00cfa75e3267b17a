"""The items that a response is asked with on the wire. It knows which fields go with which type, and no model."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from brie_server.schema.common import Body, Name
from brie_server.schema.conditions import ITEM

MOST_ITEMS = 4096
_TYPES = ("message", "function_call", "function_call_output", "item_reference")
_TEXTS = ("input_text", "output_text")
_T = TypeVar("_T")


def _known_type(kind: Any) -> Any:
    if kind not in _TYPES:
        raise ValueError(f"{str(kind)[:40]!r} is not supported: send items of the types {', '.join(_TYPES)}")
    return kind


def _text_type(kind: Any) -> Any:
    if kind not in _TEXTS:
        raise ValueError(f"{str(kind)[:40]!r} is not supported: this model reads parts of type {' and '.join(_TEXTS)}")
    return kind


def _parts(content: Any) -> Any:
    """A string is one part."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


def _needed_by(*types: str) -> AfterValidator:
    def check(value: _T, info: ValidationInfo) -> _T:
        if value is None and info.data.get("type") in types:
            raise ValueError(f"an item of the type {info.data['type']!r} must have it")
        return value

    return AfterValidator(check)


class TextPart(Body):
    """A part of a message or of a result; those that are no text are refused."""

    type: Annotated[Literal["input_text", "output_text"], BeforeValidator(_text_type)]
    text: str


Parts = Annotated[list[TextPart] | None, BeforeValidator(_parts, json_schema_input_type=str | list[TextPart] | None)]
Checked: Any = Field(validate_default=True)


def _told(schema: dict[str, Any]) -> None:
    """The type may be left out where it can be told."""
    schema.pop("required", None)
    schema.update(ITEM)


class InputItem(Body):
    """One item. The order of the fields is that in which they are checked."""

    model_config = ConfigDict(json_schema_extra=_told)

    type: Annotated[
        Literal["message", "function_call", "function_call_output", "item_reference"],
        BeforeValidator(_known_type),
        WithJsonSchema({"enum": [*_TYPES, None]}),
    ]
    role: Annotated[Literal["system", "developer", "user", "assistant"] | None, _needed_by("message"), Checked] = None
    content: Annotated[Parts, _needed_by("message"), Checked] = None
    call_id: Annotated[Name | None, _needed_by("function_call", "function_call_output"), Checked] = None
    name: Annotated[Name | None, _needed_by("function_call"), Checked] = None
    arguments: Annotated[str | None, _needed_by("function_call"), Checked] = None
    """JSON, as the model wrote it."""
    output: Annotated[Parts, _needed_by("function_call_output"), Checked] = None
    id: Annotated[Name | None, _needed_by("item_reference"), Checked] = None

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, item: Any) -> Any:
        """OpenAI lets messages and references go without their type."""
        if not isinstance(item, dict) or item.get("type") is not None:
            return item
        return {**item, "type": "item_reference" if "id" in item and "role" not in item else "message"}


def _items(given: Any) -> Any:
    """A string is one message of the user's."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


_Items = Annotated[list[InputItem], Field(max_length=MOST_ITEMS)]
Input = Annotated[_Items, BeforeValidator(_items, json_schema_input_type=str | _Items)]

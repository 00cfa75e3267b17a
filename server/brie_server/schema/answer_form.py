"""What an answer has to be, on the wire: text, any JSON object, or what a schema says. It knows no grammar."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, ValidationInfo

from brie_server.schema.common import Body, Flag
from brie_server.schema.conditions import FLAT_SCHEMA_OF_ITS_TYPE, SCHEMA_OF_ITS_TYPE

FormName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class JsonSchema(Body):
    """A schema with a name, as OpenAI wraps it."""

    name: FormName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """None is any object."""
    strict: Flag | None = None
    """Either way the answer is held to the schema."""


def _given_for_its_type(schema: Any, info: ValidationInfo) -> Any:
    if info.data.get("type") == "json_schema" and schema is None:
        raise ValueError("give the schema: {name, schema}")
    if info.data.get("type") in ("text", "json_object") and schema is not None:
        raise ValueError(f"does not go with the type {info.data['type']!r}: use 'json_schema'")
    return schema


def _with_its_schema(value: Any, info: ValidationInfo) -> Any:
    needed = info.data.get("type") == "json_schema"
    if needed and value is None:
        raise ValueError("the type 'json_schema' must have it")
    if not needed and value is not None and "type" in info.data:
        raise ValueError(f"does not go with the type {info.data['type']!r}: use 'json_schema'")
    return value


class TextFormat(Body):
    """A response's text.format: the same, flat."""

    model_config = ConfigDict(json_schema_extra=FLAT_SCHEMA_OF_ITS_TYPE)

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[FormName | None, BeforeValidator(_with_its_schema), Field(validate_default=True)] = None
    schema_: Annotated[
        dict[str, Any] | None, BeforeValidator(_with_its_schema), Field(alias="schema", validate_default=True)
    ] = None
    description: str | None = None
    strict: Flag | None = None
    """Either way the answer is held to the schema."""


class ResponseFormat(Body):
    """A chat's response_format."""

    model_config = ConfigDict(json_schema_extra=SCHEMA_OF_ITS_TYPE)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[JsonSchema | None, BeforeValidator(_given_for_its_type), Field(validate_default=True)] = None

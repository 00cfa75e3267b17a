"""What an answer has to be, on the wire: text, any JSON object, or what a schema says. It knows no grammar."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo

from brie_server.schema.common import Body, Flag

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


class ResponseFormat(Body):
    """OpenAI's response_format."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[JsonSchema | None, BeforeValidator(_given_for_its_type), Field(validate_default=True)] = None

"""What several requests share: bounded numbers, stop strings, usage, and fields that are known but refused."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from brie_core.wire import Wire
from brie_server.schema.conditions import NEUTRAL


class Body(BaseModel):
    """A request body: unknown fields are accepted (and logged once), as OpenAI's own clients expect."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class StrictBody(BaseModel):
    """A body of Brie's own: a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _refuse(value: Any) -> Any:
    if value not in (None, False, 0, "", [], {}):
        raise ValueError("this server does not support it yet; leave it out")
    return value


def _only_bool(value: Any) -> Any:
    if value is not None and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _only_number(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError("must be a number")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Refused = Annotated[
    Any, AfterValidator(_refuse), WithJsonSchema(NEUTRAL | {"description": "Known, and refused unless neutral."})
]
Ignored = Annotated[Any, Field(description="Accepted and ignored.")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Number = BeforeValidator(_only_number)  # the framework validates laxly, and would take "1" and true for numbers
Flag = Annotated[bool, BeforeValidator(_only_bool)]
Temperature = Annotated[float, Field(ge=0, le=2), Number]
Probability = Annotated[float, Field(gt=0, le=1), Number]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1), Number]
NumChoices = Annotated[int, Field(ge=1, le=128), Number]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), Number]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_Stops = Annotated[list[StopString], Field(max_length=16)]
Stop = Annotated[_Stops, BeforeValidator(_as_list, json_schema_input_type=StopString | _Stops)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: Flag = False
    include_obfuscation: Ignored = None


class Usage(Wire):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

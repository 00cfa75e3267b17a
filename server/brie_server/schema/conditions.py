"""What JSON Schema can say about fields that depend on each other, for the OpenAPI document. It validates nothing."""

from typing import Any

Schema = dict[str, Any]

NEUTRAL: Schema = {"enum": [None, False, 0, "", [], {}]}
"""What a field may be that is known and refused."""
ABSENT: Schema = {"type": "null"}
_EMPTY: Schema = {"anyOf": [ABSENT, {"type": "array", "maxItems": 0}]}


def where(condition: Schema, then: Schema) -> Schema:
    """Fields that have to be as `then` says in a body in which others are as `condition` says."""
    return {"if": _fields(condition), "then": _fields(then)}


def one_of_fields(*names: str) -> Schema:
    """Exactly one of the fields is there and not null."""
    return {"oneOf": [_fields({name: {"not": ABSENT}}) for name in names]}


def _fields(schemas: Schema) -> Schema:
    """Null is as good as absent where a schema allows it."""
    required = [name for name, schema in schemas.items() if ABSENT not in schema.get("anyOf", [schema])]
    return {"properties": schemas, **({"required": required} if required else {})}


_TEXTS: Schema = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
    ]
}
CONTENT: Schema = {"anyOf": [*_TEXTS["anyOf"], ABSENT]}
"""A message's text, whole or in parts."""
MESSAGE: Schema = {
    "oneOf": [
        _fields(
            {
                "role": {"enum": ["system", "developer", "user", "assistant"]},
                "content": _TEXTS,
                "tool_calls": _EMPTY,
                "tool_call_id": ABSENT,
            }
        ),
        _fields(
            {"role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1}, "tool_call_id": ABSENT}
        ),
        _fields(
            {
                "role": {"const": "tool"},
                "content": _TEXTS,
                "tool_calls": _EMPTY,
                "tool_call_id": {"type": "string"},
            }
        ),
    ]
}
"""Which fields go with which role."""
ITEM: Schema = {
    "anyOf": [
        _fields(
            {"type": {"enum": ["message", None]}, "role": {"type": "string"}, "content": {"type": ["string", "array"]}}
        )
        | {"required": ["role", "content"]},
        _fields(
            {
                "type": {"const": "function_call"},
                "call_id": {"type": "string"},
                "name": {"type": "string"},
                "arguments": {"type": "string"},
            }
        ),
        _fields(
            {
                "type": {"const": "function_call_output"},
                "call_id": {"type": "string"},
                "output": {"type": ["string", "array"]},
            }
        ),
        _fields({"type": {"const": "item_reference"}, "id": {"type": "string"}}),
        {"properties": {"type": ABSENT, "id": {"type": "string"}}, "required": ["id"], "not": {"required": ["role"]}},
    ]
}
"""Which fields go with which type of an item; a message and a reference may go without theirs."""
SOME_INPUT: Schema = {
    "anyOf": [
        _fields({"input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}}),
        _fields({"previous_response_id": {"type": "string"}}),
    ]
}
SCHEMA_OF_ITS_TYPE: Schema = {
    "oneOf": [
        _fields({"type": {"const": "json_schema"}, "json_schema": {"type": "object"}}),
        _fields({"type": {"enum": ["text", "json_object"]}, "json_schema": ABSENT}),
    ]
}
FLAT_SCHEMA_OF_ITS_TYPE: Schema = {
    "oneOf": [
        _fields({"type": {"const": "json_schema"}, "name": {"type": "string"}, "schema": {"type": "object"}}),
        _fields({"type": {"enum": ["text", "json_object"]}, "name": ABSENT, "schema": ABSENT}),
    ]
}
SEVERAL_LOGPROBS = where({"top_logprobs": {"type": "integer", "minimum": 1}}, {"logprobs": {"const": True}})
WHOLE_PROMPT_LOGPROBS = where(
    {"prompt_logprobs": {"type": "integer"}}, {"stream": {"anyOf": [{"const": False}, ABSENT]}}
)
MUTE_ECHO = where({"max_tokens": {"const": 0}}, {"echo": {"const": True}})
QUANTIZED_GGUF = where({"quantization": {"type": "string"}}, {"format": {"anyOf": [{"const": "gguf"}, ABSENT]}})
MERGED_DTYPE = where({"dtype": {"type": "string"}}, {"format": {"const": "merged"}})
ONE_GATE = where({"gate": {"type": "object"}}, {"gate_of": ABSENT})
KEY_OF_ANOTHER_SERVER = where({"key_env": {"type": "string"}}, {"base_url": {"type": "string"}})

"""JSON schemas that cost a compiler much, or have no answer: each is to be refused, and soon. It knows no server."""

from typing import Any


def object_of(**properties: Any) -> dict[str, Any]:
    """A closed object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = object_of(a=schema)
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "$ref of itself": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "$ref without end": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"minLength": 1}]}}},
    "1 MB": object_of(**{f"property {number}": {"type": "string"} for number in range(25_000)}),
    "regex, repeated": object_of(a={"type": "string", "pattern": "(a{1000}){1000}"}),
    "regex, 2^30 states": object_of(a={"type": "string", "pattern": "^.*a.{30}.*$"}),
    "regexes, intersected": {"allOf": [{"type": "string", "pattern": f"a.*{n}.{{20}}b"} for n in range(30)]},
    "minItems 10^6": object_of(a={"type": "array", "items": {"type": "integer"}, "minItems": 10**6}),
    "minLength 10^9": object_of(a={"type": "string", "minLength": 10**9}),
    "enum of 10^5": object_of(a={"enum": [f"v{number}" for number in range(100_000)]}),
    "multipleOf 123456789": object_of(a={"type": "integer", "multipleOf": 123_456_789}),
    "multipleOf 10^-300": object_of(a={"type": "number", "multipleOf": 1e-300}),
    "10^8 choices": {"allOf": [{"anyOf": [{"minLength": 10 * j + i} for i in range(10)]} for j in range(8)]},
    "5000 optional": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(5000)}},
    "300 levels": _nested(300),
}

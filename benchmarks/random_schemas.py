"""Random JSON schemas of moderate size, as programs write them, with answers of bounded length. It knows no server."""

from collections.abc import Callable
from random import Random
from typing import Any

_WORDS = ("name", "city", "unit", "price", "tags", "owner", "status", "notes", "code", "kind", "level", "total", "size")
_PATTERNS = (r"^[A-Z]{2}[0-9]{4}$", r"^[a-z]{1,8}(-[a-z]{1,8})?$", r"^\+?[0-9]{5,12}$", r"^#[0-9a-f]{6}$", r"^v\d\.\d$")
_FORMATS = ("date", "time", "date-time", "ipv4", "uuid")
Schema = dict[str, Any]


def random_schema(random: Random) -> Schema:
    """An object of three to six properties, nested up to three levels, some of them by reference."""
    definitions = {f"part{number}": _object(random, 1) for number in range(random.randint(1, 2))}
    schema = _object(random, 3, list(definitions))
    return {**schema, "$defs": definitions}


def _object(random: Random, depth: int, definitions: list[str] | None = None) -> Schema:
    names = random.sample(_WORDS, random.randint(2, 4) + (depth > 2))
    properties = {name: _value(random, depth - 1, definitions or []) for name in names}
    optional = random.sample(names, random.randint(0, 1))
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in names if name not in optional],
        "additionalProperties": False,
    }


def _value(random: Random, depth: int, definitions: list[str]) -> Schema:
    kinds: list[Callable[[], Schema]] = [
        lambda: _string(random),
        lambda: _string(random),
        lambda: _number(random),
        lambda: _choice(random),
        lambda: {"type": random.choice(["boolean", "null"])},
    ]
    if depth > 0:
        kinds += [
            lambda: _object(random, depth, definitions),
            lambda: _array(random, depth, definitions),
            lambda: {"anyOf": [_value(random, depth - 1, definitions) for _ in range(random.randint(2, 3))]},
        ]
    if definitions:
        kinds.append(lambda: {"$ref": f"#/$defs/{random.choice(definitions)}"})
    return random.choice(kinds)()


def _string(random: Random) -> Schema:
    kind = random.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": random.choice(_PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": random.choice(_FORMATS)}
    least = random.randint(0, 5)
    return {"type": "string", "minLength": least, "maxLength": least + random.randint(1, 20)}


def _number(random: Random) -> Schema:
    least = random.randint(-1000, 1000)
    if random.random() < 0.5:
        return {"type": "integer", "minimum": least, "maximum": least + random.randint(0, 5000)}
    bounds = {"exclusiveMinimum": least / 8, "maximum": least / 8 + random.randint(1, 500)}
    return {"type": "number", **bounds} | ({"multipleOf": 0.25} if random.random() < 0.3 else {})


def _choice(random: Random) -> Schema:
    if random.random() < 0.2:
        return {"const": random.choice([True, None, 7, "fixed", "Cádiz"])}
    return {"enum": random.sample(["red", "green", "blue", "né", 'quo"te', 1, 2.5, None, False], random.randint(1, 5))}


def _array(random: Random, depth: int, definitions: list[str]) -> Schema:
    least = random.randint(0, 2)
    return {
        "type": "array",
        "items": _value(random, depth - 1, definitions),
        "minItems": least,
        "maxItems": least + random.randint(0, 2),
    }

"""Which JSON schemas are compiled at all: how large they may be, and what would be overlooked. It knows no grammar.

What a compiler spends on a schema has no bound of its own in the number of characters: repetitions in a pattern, least
counts and divisors are numbers. Each is bounded here, before anything is compiled.
"""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

MOST_BYTES = 64 * 1024
MOST_DEPTH = 32
MOST_PROPERTIES = 500
MOST_VALUES = 1000
MOST_PATTERN = 512
MOST_REPEATS = 5000
MOST_LEAST = 10_000
MOST_DIVISOR = 1000
"""A multiple of 0.25 divides like 25."""

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_DATA = ("enum", "const", "default", "examples", "required", "x-guidance")
_LEAST = ("minItems", "minLength", "minProperties")
_OF_OLD_DRAFTS = ("disallow", "divisibleBy", "extends")
_MOST_PLACES = 9
_COUNT = re.compile(r"\{(\d+)?(,)?(\d+)?\}")


class SchemaRefused(ValueError):
    """What is wrong with a schema, in words."""


def checked(schema: Mapping[str, Any]) -> str:
    """The schema as JSON text; raises SchemaRefused."""
    if _is_nested_deeper(schema, 2 * MOST_DEPTH):
        raise SchemaRefused(f"it is nested more than {MOST_DEPTH} levels deep")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except ValueError as error:
        raise SchemaRefused("it holds a number or a character that JSON text cannot hold") from error
    if size > MOST_BYTES:
        raise SchemaRefused(f"it has {size} bytes of JSON, and may have {MOST_BYTES}")
    _check_counts(list(_subschemas(schema)))
    return text


def _is_nested_deeper(value: Any, levels: int) -> bool:
    nested = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_nested_deeper(each, levels - 1) for each in nested)


def _subschemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """It and all in it; what only looks like a schema because it is a value is none."""
    if isinstance(schema, list):
        for each in schema:
            yield from _subschemas(each)
    if not isinstance(schema, Mapping):
        return
    yield schema
    for keyword, value in schema.items():
        if keyword in _BY_NAME and isinstance(value, Mapping):
            yield from _subschemas(list(value.values()))
        elif keyword not in _DATA:
            yield from _subschemas(value)


def _check_counts(schemas: list[Mapping[str, Any]]) -> None:
    _bound("properties", sum(_size(each, keyword) for each in schemas for keyword in ("properties", "required")))
    _bound("enum", sum(_size(each, "enum") for each in schemas), MOST_VALUES)
    divisors = 0.0
    for each in schemas:
        for keyword in _OF_OLD_DRAFTS:
            if keyword in each:
                raise SchemaRefused(f"{keyword} is no keyword of draft 2020-12")
        for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
            if isinstance(each.get(keyword), bool):
                raise SchemaRefused(f"{keyword} is a number in draft 2020-12")
        for keyword in _LEAST:
            _bound(keyword, _number(each, keyword), MOST_LEAST)
        divisors += _divisor(each)
        for pattern in _patterns(each):
            _check_pattern(pattern)
    _bound("multipleOf", divisors, MOST_DIVISOR)


def _bound(keyword: str, number: float, most: int = MOST_PROPERTIES * 2) -> None:
    if number > most:
        raise SchemaRefused(f"{keyword} asks for too much ({number:.6g} in all; at most {most})")


def _size(schema: Mapping[str, Any], keyword: str) -> int:
    value = schema.get(keyword)
    return len(value) if isinstance(value, list | Mapping) else 0


def _number(schema: Mapping[str, Any], keyword: str) -> float:
    value = schema.get(keyword)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _divisor(schema: Mapping[str, Any]) -> float:
    """How many remainders the digits of a number may leave."""
    _, digits, exponent = Decimal(repr(_number(schema, "multipleOf"))).normalize().as_tuple()
    if not isinstance(exponent, int) or not -_MOST_PLACES <= exponent <= _MOST_PLACES:
        return MOST_DIVISOR + 1
    return float(int("".join(map(str, digits))) * 10 ** max(exponent, 0))


def _patterns(schema: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(schema.get("pattern"), str):
        yield schema["pattern"]
    named = schema.get("patternProperties")
    if isinstance(named, Mapping):
        yield from named


def _check_pattern(pattern: str) -> None:
    if len(pattern) > MOST_PATTERN:
        raise SchemaRefused(f"pattern: one has {len(pattern)} characters, and may have {MOST_PATTERN}")
    if (repeats := repetitions(pattern)) > MOST_REPEATS:
        raise SchemaRefused(f"pattern: {pattern[:60]!r} repeats something {repeats} times; at most {MOST_REPEATS}")


def repetitions(pattern: str) -> int:
    """The most often that a pattern's counts write out one of its parts: those of nested groups multiply.

    Brackets in a class or after a backslash are no groups. A count without an end counts by its least.
    """
    levels, place = [1], 0
    while place < len(pattern):
        character, last = pattern[place], 1
        place += 1
        if character == "(":
            levels.append(1)
            continue
        if character == "\\":
            place += 1
        elif character == "[":
            place = _end_of_class(pattern, place)
        elif character == ")" and len(levels) > 1:
            last = levels.pop()
        while found := _COUNT.match(pattern, place):
            last *= max(1, *(int(count) for count in (found[1], found[3]) if count))
            place = found.end()
        levels[-1] = max(levels[-1], last)
    return max(levels)


def _end_of_class(pattern: str, place: int) -> int:
    place += pattern.startswith("^", place)
    place += pattern.startswith("]", place)
    while place < len(pattern) and pattern[place] != "]":
        place += 2 if pattern[place] == "\\" else 1
    return place + 1

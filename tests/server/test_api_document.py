"""The table of docs/api.md that lists every field is held against what the routes themselves declare."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_server.app import create_app

HEADING = "## Every field, and what becomes of it"
STATES = {"Known, and refused unless neutral.": 1, "Accepted and ignored.": 2}
Row = tuple[frozenset[str], frozenset[str], frozenset[str]]
"""Honoured, refused, ignored."""


def _paths(schema: Any, document: Any, before: str = "") -> Iterator[tuple[str, int]]:
    """Each field of a body by its path, with the column it belongs to."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from _paths(part, document, before)
    if "items" in schema:
        yield from _paths(schema["items"], document, f"{before}[]")
    for name, field in schema.get("properties", {}).items():
        path = f"{before}.{name}" if before else name
        state = STATES.get(field.get("description", ""), 0)
        below = list(_paths(field, document, path)) if state == 0 else []
        yield from below or [(path, state)]


def _operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict):
                yield f"{method.upper()} {path}", operation


def _declared(document: Any) -> dict[str, Row]:
    """By operation that has fields: a field with fields of its own is told by them."""
    rows = {}
    for name, operation in _operations(document):
        columns: tuple[set[str], ...] = (set(), set(), set())
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                columns[0].add(parameter["name"])
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for path, state in _paths(content["schema"], document):
                columns[state].add(path)
        if any(columns):
            rows[name] = (frozenset(columns[0]), frozenset(columns[1]), frozenset(columns[2]))
    return rows


def _written() -> dict[str, Row]:
    table = (Path(__file__).parents[2] / "docs" / "api.md").read_text().partition(HEADING)[2]
    rows = {}
    for line in table.splitlines():
        if found := re.fullmatch(r"\| ((?:GET|POST|PUT|DELETE) \S+) \|(.*)\|(.*)\|(.*)\|", line):
            honoured, refused, ignored = (frozenset(cell.replace(",", " ").split()) for cell in found.groups()[1:])
            rows[found[1]] = (honoured, refused, ignored)
    return rows


def _line(name: str, row: Row) -> str:
    return f"| {name} | " + " | ".join(", ".join(sorted(cell)) for cell in row) + " |"


def test_every_field_is_listed_as_what_it_is(tiny_base: BaseModel, tmp_path: Path) -> None:
    document = create_app(Settings(home=tmp_path), tiny_base).openapi_schema.to_schema()
    declared, written = _declared(document), _written()
    wrong = [_line(name, row) for name, row in declared.items() if written.get(name) != row]
    if wrong:
        pytest.fail("docs/api.md should say:\n" + "\n".join(wrong))
    assert written.keys() == declared.keys()

"""Holds answers against OpenAI's own OpenAPI document, reduced (`reduce.py`). It knows no server and no client.

The document is taken as it stands, except where `_DEPARTURES` says otherwise, each with its reason. Its `discriminator`
adds nothing that is not already in the schemas it chooses among; they are told apart by the constants in them.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator

from openai_document.streams import faults_of_order

DOCUMENT = Path(__file__).with_name("document.json")
ERROR_FIELDS = {"message", "type", "param", "code"}
_DONE = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its answer."""

    method: str
    path: str
    """Without the `/v1` before it."""
    request: bytes = b""
    status: int
    content_type: str
    body: bytes
    is_whole: bool = True
    """Whether the answer was read to its end."""


def faults_of(exchange: Exchange) -> list[str]:
    """What OpenAI's document says against an answer; nothing for paths that it does not know."""
    try:
        found = list(_faults(exchange))
    except ValueError as error:
        found = [f"no JSON: {error}"]
    return [f"{exchange.status} {exchange.method} {exchange.path}: {fault}" for fault in found]


def operation_of(method: str, path: str) -> str | None:
    """`get /files/{file_id}` for GET /files/file-1."""
    return next((name for name, is_it in _patterns() if is_it(f"{method.lower()} {path}")), None)


def _faults(exchange: Exchange) -> Iterator[str]:
    operation = operation_of(exchange.method, exchange.path)
    if exchange.status < 400 and exchange.content_type == "text/event-stream":
        yield from _faults_of_stream(operation, exchange) if operation else ()
    elif not exchange.is_whole:
        return
    elif exchange.status < 400:
        yield from _faults_against(operation, exchange) if operation else ()
    elif exchange.content_type == "application/json":
        yield from _faults_of_error(json.loads(exchange.body))
    else:
        yield f"an error as {exchange.content_type!r}"


def _faults_of_error(told: Any) -> Iterator[str]:
    """The document requires all four fields; Brie adds none."""
    yield from _told(_validator("#/components/schemas/ErrorResponse"), told)
    if set(told) != {"error"} or set(told["error"]) != ERROR_FIELDS:
        yield f"an error with the fields {told}"


def _faults_against(operation: str, exchange: Exchange) -> Iterator[str]:
    schema = document()["answers"][operation].get(exchange.content_type)
    if schema is None:
        yield f"{exchange.content_type!r} is no content type of this operation"
    else:
        yield from _told(_validator(schema["$ref"]), json.loads(exchange.body))


def _faults_of_stream(operation: str, exchange: Exchange) -> Iterator[str]:
    """Each event against the schema of a streamed part, and all of them against the rules of order.

    An event named `error` is one of the stream's parts, and its `error` is what other streams have alone.
    """
    events = list(_events(exchange.body.decode()))
    parts = [(name, json.loads(data)) for name, data in events if data != _DONE]
    errors = [told for name, told in parts if not name and isinstance(told, dict) and "error" in told]
    nested = [{"error": told["error"]} for name, told in parts if name == "error" and "error" in told]
    found = [fault for told in errors + nested for fault in _faults_of_error(told)]
    part = _validator(_part_schema(operation))
    found += [fault for _, told in parts if told not in errors for fault in _told(part, told)]
    yield from found
    if exchange.is_whole and not errors and not found:
        yield from faults_of_order(operation, parts, events[-1:] == [("", _DONE)], json.loads(exchange.request))


def _part_schema(operation: str) -> str:
    """The document has no stream of completions; in prose it says that its parts have the shape of a whole answer."""
    kinds = document()["answers"][operation]
    schema: str = kinds.get("text/event-stream", kinds["application/json"])["$ref"]
    return schema


def _events(text: str) -> Iterator[tuple[str, str]]:
    """Name and data of each whole server-sent event; comments are none."""
    for block in text.split("\n\n")[:-1]:
        fields = [line.partition(": ")[::2] for line in block.split("\n") if not line.startswith(":")]
        if fields:
            told = dict(fields)
            yield told.get("event", ""), told["data"]


def _told(validator: Draft202012Validator, told: Any) -> Iterator[str]:
    for error in validator.iter_errors(told):
        yield f"{'.'.join(map(str, error.instance_path)) or 'the answer'}: {error.message[:600]}"


@lru_cache
def _validator(reference: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": reference, "components": document()["components"]})


@lru_cache
def _patterns() -> list[tuple[str, Callable[[str], Any]]]:
    """Names of models may hold slashes; the longer paths come first."""
    names = sorted(document()["answers"], key=len, reverse=True)
    return [(name, re.compile(re.sub(r"\\\{\w+\\\}", "([^/]+|ft:.+)", re.escape(name))).fullmatch) for name in names]


@lru_cache
def document() -> dict[str, Any]:
    """The reduced document as it is read here."""
    told: dict[str, Any] = _modern(json.loads(DOCUMENT.read_text()))
    for path, value, _reason in _DEPARTURES:
        *above, last = path.split("/")
        place = told["components"]["schemas"]
        for key in above:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = _with(copy.deepcopy(place[last]), value)
    return told


def _with(schema: Any, value: Any) -> Any:
    return schema + value if isinstance(schema, list) else {"anyOf": [schema, value]}


_NULL = {"type": "null"}
_CHOICE = "CreateCompletionResponse/properties/choices/items/properties"
_LOGPROBS = f"{_CHOICE}/logprobs/anyOf/0/properties"
_DEPARTURES: tuple[tuple[str, Any, str], ...] = (
    (f"{_CHOICE}/finish_reason", _NULL, "the parts of a stream before the last have none; OpenAI sends null too"),
    (f"{_LOGPROBS}/token_logprobs/items", _NULL, "the first token of an echoed prompt has none; OpenAI sends null too"),
    (f"{_LOGPROBS}/top_logprobs/items", _NULL, "the same"),
    (
        "CreateCompletionResponse/properties/usage",
        _NULL,
        "in prose: with include_usage, every part of a stream but the last has it as null",
    ),
    ("Embedding/properties/embedding", {"type": "string"}, "in base64, for which its request has a field"),
    ("ListFilesResponse/properties/first_id", _NULL, "an empty list has no first file"),
    ("ListFilesResponse/properties/last_id", _NULL, "an empty list has no last file"),
    ("OpenAIFile/properties/purpose/enum", ["evals"], "the document allows it in the request for the same file"),
)
"""Where in the document, what is allowed besides, and why."""


def _modern(schema: Any) -> Any:
    """Words of older drafts in a document of OpenAPI 3.1, which validators of 3.1 pass over, in words of 3.1."""
    if isinstance(schema, list):
        return [_modern(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: _modern(value) for key, value in schema.items()}
    if told.get("$recursiveRef") == "#":  # its only use: a compound filter among the filters of one
        return {"$ref": "#/components/schemas/CompoundFilter"}
    if told.get("exclusiveMinimum") is True:
        told["exclusiveMinimum"] = told.pop("minimum")
    return {"anyOf": [told, _NULL]} if told.pop("nullable", False) is True else told

"""The OpenAPI document: the framework's account of the routes, with pydantic's schemas and with all errors.

It changes what is told of the routes, and no route. The framework's own schemas leave out bounds of optional fields and
whatever stands in pydantic's JSON schema.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from brie_core.wire import Wire
from brie_server.schema.common import Body, StrictBody
from brie_server.schema.errors import ErrorAnswer
from brie_server.schema.resources import FILE_FORM

_TEMPLATE = "#/components/schemas/{model}"
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')
_STREAMED = {
    "createChatCompletion": "ChatCompletion",
    "createCompletion": "Completion",
    "createResponse": "ResponseObject",
    "listFineTuningEvents": "Page_JobEvent_",
}
"""Operations that answer whole, in this shape, or as a stream."""
_FORMS = {"createFile": FILE_FORM}
_PLAIN = {
    "retrieveEvaluationReport": {"application/json": {"schema": {"type": "object"}}},
    "retrieveEvaluationPage": {"text/html": {"schema": {"type": "string"}}},
}
"""Operations that answer with a file as it lies on the disk."""
_RANGED = frozenset({"downloadExport", "downloadExportFile", "downloadEvaluationFile"})
"""Operations that answer with a file, or with the part of it that a Range header asks for."""
_ERRORS = {
    400: "A field that cannot be honoured; `param` names it.",
    401: "No API key, or not one of the server's.",
    403: "The request comes from where this server does not answer.",
    404: "What is named does not exist.",
    409: "The state has moved on since the caller looked.",
    412: "The file is not the one that If-Match names.",
    413: "The body is too large.",
    415: "The body is not of the content type that is read here.",
    416: "The file ends before the range begins.",
    429: "The queue is full: come back after the seconds in Retry-After.",
    503: "Not ready, or the database is away: come back after the seconds in Retry-After.",
    507: "The disk is nearly full; nothing was written.",
}
_OF_ANSWERS = frozenset({404, 429})
_OF_ONE = {
    "createChatCompletion": _OF_ANSWERS,
    "createCompletion": _OF_ANSWERS,
    "createEmbedding": _OF_ANSWERS,
    "createResponse": _OF_ANSWERS,
    "getInputTokenCounts": {404},
    "cancelResponse": {400},
    "createFile": {507},
    "createFineTuningJob": {404},
    "createExport": {404},
    "createEvaluation": {404},
    "tokenize": {404},
    "detokenize": {404},
    "loadLoraAdapter": {404, 409},
    "unloadLoraAdapter": {404, 409},
    "pointAdapter": {409},
    "deleteModel": {400, 409},
    "deleteAdapter": {400, 409},
    "cancelFineTuningJob": {400},
    "cancelExport": {400},
    "deleteExport": {409},
    "downloadExport": {400, 412, 416},
    "downloadExportFile": {412, 416},
    "cancelEvaluation": {400},
    "resumeEvaluation": {409},
    "deleteEvaluation": {409},
    "downloadEvaluationFile": {412, 416},
    "putGate": {400},
}
"""Besides those that follow from what an operation takes."""
_WITHOUT_DATABASE = frozenset({"live", "ready", "health"})


class DocumentConfig(OpenAPIConfig):
    """The framework's, for a document that is completed before it is served."""

    def to_openapi_schema(self) -> OpenAPI:
        """The document as it begins; the framework adds the routes."""
        plain = super().to_openapi_schema()
        return _Document(info=plain.info, servers=plain.servers, components=plain.components, paths={})


class _Document(OpenAPI):
    def to_schema(self) -> dict[str, Any]:
        return completed(super().to_schema())


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with true schemas, both content types of streams, and each operation's errors."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, is_of_one="{" in path)
    components = document["components"]
    known = components["schemas"] | _definitions()
    components["schemas"] = dict(sorted(_needed(known, _references(document["paths"]) | {ErrorAnswer.__name__})))
    components["responses"] = {f"Error{status}": _error(status) for status in _ERRORS}
    return document


def _complete(operation: dict[str, Any], *, is_of_one: bool) -> None:
    name, answers = operation["operationId"], operation["responses"]
    if name in _STREAMED:
        whole = {"schema": {"$ref": _TEMPLATE.format(model=_STREAMED[name])}}
        answers["200"]["content"] = {"application/json": whole, "text/event-stream": {"schema": {"type": "string"}}}
    if name in _FORMS:
        operation["requestBody"]["content"] = {"multipart/form-data": {"schema": _FORMS[name]}}
    if name in _PLAIN:
        answers["200"]["content"] = _PLAIN[name]
    if name in _RANGED:
        bytes_ = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        answers["200"]["content"] = bytes_
        answers["206"] = {"description": "The part that Range asks for.", "content": bytes_}
        answers["304"] = {"description": "The caller has this file already: If-None-Match names it."}
    if file := answers["200"].get("content", {}).pop("", None):  # the framework knows no type for it
        answers["200"]["content"]["application/octet-stream"] = file
        del answers["200"]["headers"]["last-modified"]  # said to be of a format that it does not have
    for status in sorted(_statuses(operation, is_of_one=is_of_one)):
        answers[str(status)] = {"$ref": f"#/components/responses/Error{status}"}


def _statuses(operation: dict[str, Any], *, is_of_one: bool) -> Iterator[int]:
    """The errors that may be met: those of what is taken, and those of this operation alone."""
    yield from (401, 403)
    if operation["operationId"] not in _WITHOUT_DATABASE:
        yield 503
    yield from _OF_ONE.get(operation["operationId"], ())
    if is_of_one:
        yield 404
    if "requestBody" in operation:
        yield from (400, 413, 415)
    if "parameters" in operation:
        yield 400


def _error(status: int) -> dict[str, Any]:
    told: dict[str, Any] = {"description": _ERRORS[status]}
    if status in {429, 503}:
        told["headers"] = {"retry-after": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return told | {"content": {"application/json": {"schema": {"$ref": _TEMPLATE.format(model=ErrorAnswer.__name__)}}}}


def _definitions() -> dict[str, Any]:
    """The schemas of everything on the wire, by the names that the framework has for them too."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for root in (Body, StrictBody) for model in _kinds(root)),
        *((model, "serialization") for model in _kinds(Wire)),
        (ErrorAnswer, "serialization"),
    ]
    _, told = models_json_schema(models, ref_template=_TEMPLATE)
    definitions: dict[str, Any] = told["$defs"]
    return definitions


def _kinds(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """All models of a kind; generic ones only with their parameter."""
    for kind in model.__subclasses__():
        if not kind.__pydantic_generic_metadata__["parameters"]:
            yield kind
        yield from _kinds(kind)


def _needed(known: dict[str, Any], names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    found: set[str] = set()
    missing = set(names)
    while missing:
        found |= missing
        missing = _references([known[name] for name in missing]) - found
    return ((name, known[name]) for name in found)


def _references(told: Any) -> set[str]:
    return set(_REFERENCE.findall(json.dumps(told)))

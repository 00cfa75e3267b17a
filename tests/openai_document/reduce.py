"""Reduces OpenAI's OpenAPI document to the shapes of answers that Brie gives. It knows no server, and keeps no prose.

    python tests/openai_document/reduce.py openapi.json COMMIT > tests/openai_document/document.json

The first argument is openapi.json of https://github.com/openai/openai-openapi at that commit.
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OPERATIONS = (
    "post /chat/completions",
    "post /completions",
    "post /embeddings",
    *("get /models", "get /models/{model}", "delete /models/{model}"),
    *("get /files", "post /files", "get /files/{file_id}", "delete /files/{file_id}"),
    *("get /fine_tuning/jobs", "post /fine_tuning/jobs"),
    "get /fine_tuning/jobs/{fine_tuning_job_id}",
    "post /fine_tuning/jobs/{fine_tuning_job_id}/cancel",
    "get /fine_tuning/jobs/{fine_tuning_job_id}/events",
    "get /fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
    *("post /responses", "post /responses/input_tokens", "get /responses/{response_id}"),
    *("post /responses/{response_id}/cancel", "get /responses/{response_id}/input_items"),
)
ERROR = "ErrorResponse"
_NAMES_OF_THEIR_OWN = ("properties", "patternProperties")
_PROSE = frozenset({"default", "deprecated", "description", "example", "examples", "externalDocs", "title"})
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')


def reduced(document: dict[str, Any], commit: str) -> dict[str, Any]:
    """Response schemas by operation and content type, and the component schemas that they lead to."""
    answers = {operation: _answers(document, operation) for operation in OPERATIONS}
    schemas = _closure(document["components"]["schemas"], {ERROR, *_references(answers)})
    origin = {
        "repository": "https://github.com/openai/openai-openapi",
        "commit": commit,
        "version": document["info"]["version"],
        "license": "MIT, Copyright (c) OpenAI; see LICENSE beside this file",
        "made_by": "tests/openai_document/reduce.py; without descriptions, examples, defaults and x- fields",
    }
    return {"origin": origin, "answers": answers, "components": {"schemas": schemas}}


def _answers(document: dict[str, Any], operation: str) -> dict[str, Any]:
    method, path = operation.split()
    content = document["paths"][path][method]["responses"]["200"]["content"]
    return {kind: _bare(told["schema"]) for kind, told in content.items()}


def _closure(schemas: dict[str, Any], names: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while missing := names - found.keys():
        found |= {name: _bare(schemas[name]) for name in missing}
        names = names | set(_references([found[name] for name in missing]))
    return dict(sorted(found.items()))


def _references(schema: Any) -> Iterable[str]:
    return _REFERENCE.findall(json.dumps(schema))


def _bare(schema: Any) -> Any:
    """A schema without what says nothing about shape."""
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key not in _PROSE and not key.startswith("x-")}
    return {key: _each_bare(value) if key in _NAMES_OF_THEIR_OWN else _bare(value) for key, value in kept.items()}


def _each_bare(named: dict[str, Any]) -> dict[str, Any]:
    return {name: _bare(schema) for name, schema in named.items()}


if __name__ == "__main__":
    print(json.dumps(reduced(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]), indent=1))

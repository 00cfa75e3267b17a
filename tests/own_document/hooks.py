"""What schemathesis is told about Brie: what exists to be asked for, and what may be refused of a valid body.

It makes requests reach the engine and the stores, which names made up by chance would not.
"""

import os
import re
from pathlib import Path
from typing import Any

import schemathesis

MODEL = os.environ["BRIE_JUDGED_MODEL"]
FILE = os.environ["BRIE_JUDGED_FILE"]
ADAPTER = os.environ["BRIE_JUDGED_ADAPTER"]
VERSION = os.environ["BRIE_JUDGED_VERSION"]
MADE = os.environ.get("BRIE_JUDGED_MADE")
FEW_TOKENS = 16
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
MEANINGS = (
    "max_tokens and max_completion_tokens differ",
    "best_of must equal n",
    "prompt and n ask for more than",
    "two tools have the same name",
    "there is no such tool among tools",
    "there are no tools to choose from",
    "inside method, or at the top without a method",
    "it was not trained for fewer to mean anything",
    "comes before this output",
    "would be ignored, leave them out",
    "looks at the validation loss",
    "there is nothing to pack",
    "max is below min",
)
"""Rules between fields that JSON Schema has no words for, in Brie's words; their code is that of a malformed field."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Names that exist, in requests that are answered within a moment."""
    if case.operation.path == "/v1/adapters/{name}" and case.method in {"GET", "PUT"}:
        case.path_parameters["name"] = ADAPTER
    if case.operation.path.endswith("/events") and case.query and case.query.get("stream") in (True, "true"):
        case.query["stream"] = False  # without a worker no job ends, and its events go on for ever
    body = case.body
    if not isinstance(body, dict):
        return
    if _is_name(body.get("training_file")):
        body["training_file"] = FILE
    if case.operation.path == "/v1/evaluations" and case.method == "POST":
        body |= {name: value for name, value in (("data", FILE), ("prompts", "default")) if _is_name(body.get(name))}
    if case.method == "PUT" and re.fullmatch("[0-9a-f]{64}", str(body.get("version"))):
        body["version"] = VERSION
    if not _is_name(body.get("model")):
        return
    if limit := LIMITS.get(case.operation.path):
        body.setdefault(limit, body.get("max_completion_tokens", 2))
        if not _are_few(body[limit]):
            return
    body["model"] = MODEL


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """What was made is written down: another request may have deleted it since."""
    if MADE and case.method == "POST" and response.status_code == 200:
        with Path(MADE).open("a") as file:
            file.write(f"{case.operation.path}\n")


@schemathesis.check
def a_valid_body_is_refused_by_meaning_only(ctx: Any, response: Any, case: Any) -> None:
    """What the document allows is not malformed."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if response.status_code != 400 or not is_valid:
        return
    error = response.json()["error"]
    assert error["code"] not in {"invalid_value", "invalid_json"} or any(
        meaning in error["message"] for meaning in MEANINGS
    ), error["message"]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 128


def _are_few(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= FEW_TOKENS

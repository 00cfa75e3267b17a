"""Exceptions to OpenAI's error envelope: the only place that renders errors. It knows no route."""

import logging
import re
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from brie_core.errors import BrieError, InvalidRequest, Overloaded
from brie_server.api.requests import request_id

logger = logging.getLogger("brie.api")
_TYPES = {401: "invalid_request_error", 429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}


def brie_error(_request: Request[Any, Any, Any], error: BrieError) -> Response[Any]:
    """An error raised on purpose."""
    if error.status >= 500 and error.status != 503:
        logger.error("%s: %s", type(error).__name__, error.message)
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if isinstance(error, Overloaded):
        headers |= {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{error.retry_after}s"}
    if error.status == 409:
        headers["x-should-retry"] = "false"  # OpenAI's clients would repeat the same lost race
    return Response(error.envelope(), status_code=error.status, headers=headers)


def validation_error(_request: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    """A body or parameter that does not fit its model: the first fault, with the field as `param`."""
    faults = error.extra if isinstance(error.extra, list) else []
    first = faults[0] if faults and isinstance(faults[0], dict) else {}
    if first.get("key") == "data":  # how the framework says that there was no body to read
        empty = InvalidRequest("The body is empty: send a JSON object.", code="invalid_json")
        return Response(empty.envelope(), status_code=400)
    param = _param(str(first.get("key", ""))) or None
    message = str(first.get("message") or error.detail).removeprefix("Value error, ")
    text = f"Invalid value for {param}: {message}" if param else message
    return Response(InvalidRequest(text, param=param, code="invalid_value").envelope(), status_code=400)


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """What the framework refuses: unknown routes, wrong methods, bodies too large."""
    detail = f"{request.method} {request.url.path}: {error.detail}"
    status = 400 if error.status_code == 422 else error.status_code
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    body = {"message": detail, "type": kind, "param": None, "code": _CODES.get(status)}
    return Response({"error": body}, status_code=status, headers=error.headers or {})


def unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """A fault of ours: logged whole, told without internals."""
    logger.error("%s: %s %s failed", request_id(request.scope), request.method, request.url.path, exc_info=error)
    return Response(BrieError("The server failed on this request; its log says why.").envelope(), status_code=500)


def _param(key: str) -> str:
    """`messages.3.content` as OpenAI writes it: `messages[3].content`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key.removeprefix("data."))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    BrieError: brie_error,
    ValidationException: validation_error,
    HTTPException: http_error,
    Exception: unexpected_error,
}

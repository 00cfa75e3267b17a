"""Reads JSON bodies so that every fault has a clear answer, and guards the door. It knows no route.

The body is read by Python's json because it lets NaN and Infinity through to the models, which then name the field.
"""

import hmac
import json
import logging
import re
import secrets
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import MutableScopeHeaders
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope
from pydantic import BaseModel

from brie_core.errors import Forbidden, InvalidRequest, Unauthenticated, UnsupportedMedia
from brie_core.settings import LOOPBACK, Settings

logger = logging.getLogger("brie.api")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_OPEN_PATHS = ("/health", "/docs")


class JsonRequest(Request[Any, Any, Any]):
    """A request whose body is JSON or a clear error."""

    async def json(self) -> Any:
        """The parsed body; raises InvalidRequest or UnsupportedMedia."""
        kind = self.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMedia(
                f"The body's content type is {kind or 'missing'}: send JSON with the header "
                "'content-type: application/json'."
            )
        body = await self.body()
        if not body.strip():
            raise InvalidRequest("The body is empty: send a JSON object.", code="invalid_json")
        return _parse(body)


def _parse(body: bytes) -> Any:
    try:
        value = json.loads(body.decode())
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from error
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The body is JSON, but not an object.", code="invalid_json")
    if _ESCAPED_SURROGATE.search(body):
        _check_characters(value)
    return value


def _check_characters(value: dict[str, Any]) -> None:
    """Half of a surrogate pair can be written in JSON, but is no character: neither tokenizer nor answer could hold it.

    Raises InvalidRequest that names where it stands.
    """
    unseen: list[tuple[str, Any]] = [("", value)]
    while unseen:
        path, each = unseen.pop()
        if isinstance(each, dict):
            unseen += [(f"{path}.{key}".removeprefix("."), inner) for key, inner in each.items()]
            unseen += [(path, key) for key in each]
        elif isinstance(each, list):
            unseen += [(f"{path}[{number}]", inner) for number, inner in enumerate(each)]
        elif isinstance(each, str) and _SURROGATE.search(each):
            param = _SURROGATE.sub("\ufffd", path) or None
            raise InvalidRequest("Half of a surrogate pair is no character.", param=param, code="invalid_value")


def request_id(scope: Scope) -> str:
    """What a request is called in its answer's headers and in the log; the same at each call."""
    name: str = scope["state"].setdefault("brie_request_id", f"req_{secrets.token_hex(12)}")
    return name


async def name_request(message: Message, scope: Scope) -> None:
    """Put the name into the response's headers, where OpenAI has it."""
    if message["type"] == "http.response.start":
        MutableScopeHeaders.from_message(message)["x-request-id"] = request_id(scope)


async def tell_methods(message: Message, scope: Scope) -> None:
    """The framework answers OPTIONS with the methods of the first handler of a path; say those of all."""
    if scope.get("method") != "OPTIONS" or message["type"] != "http.response.start" or message["status"] >= 400:
        return
    routes = [route for route in scope["litestar_app"].routes if route.path_format == scope.get("path_template")]
    methods = {method for route in routes if isinstance(route, HTTPRoute) for method in route.methods}
    MutableScopeHeaders.from_message(message)["allow"] = ", ".join(sorted(methods))


class UnknownFields:
    """Remembers which unknown fields were met, so that each is logged once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def note(self, body: BaseModel) -> None:
        """Log the fields of `body` that its model does not know; they are ignored."""
        for field in body.model_extra or {}:
            met = (type(body).__name__, field)
            if met not in self._seen and len(self._seen) < 1000:
                self._seen.add(met)
                logger.warning("ignored unknown field %r of %s", field[:100], met[0])


class Door:
    """Lets requests with one of the API keys through; where there are none, those that come from this machine.

    Without keys any web page could reach a server on loopback, by a foreign name that resolves here (DNS rebinding) or
    by a form that needs no preflight. So the host must be a loopback name, and so must an origin, if one is sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = tuple(key.encode() for key in settings.api_keys)

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        """Raises Unauthenticated or Forbidden; keys are compared in constant time and never echoed.

        It awaits nothing: the framework would put a plain function on another thread.
        """
        if self._keys:
            self._check_key(connection)
            return
        origin = connection.headers.get("origin", "")
        for named in (connection.headers.get("host", ""), origin.partition("://")[2] or origin):
            if named and _host_name(named) not in LOOPBACK:
                raise Forbidden(
                    f"Requests for {named!r} are not answered: this server has no API keys and serves its own machine "
                    "only. Ask http://127.0.0.1, or set BRIE_API_KEYS."
                )

    def _check_key(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        if connection.url.path.startswith(_OPEN_PATHS):
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthenticated("No or wrong API key: send 'Authorization: Bearer KEY' with a key of BRIE_API_KEYS.")


def _host_name(named: str) -> str:
    """`[::1]:8000` and `localhost:8000` without brackets and port."""
    if named.startswith("["):
        return named[1:].partition("]")[0]
    return named.partition(":")[0].lower()

"""Reads JSON bodies so that every fault has a clear answer, and guards the door. It knows no route.

The body is read by Python's json because it lets NaN and Infinity through to the models, which then name the field.
"""

import hmac
import json
import logging
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from pydantic import BaseModel

from brie_core.errors import InvalidRequest, Unauthenticated, UnsupportedMedia

logger = logging.getLogger("brie.api")
_MAX_DIGITS = 4300
_OPEN_PATHS = ("/health/", "/docs")


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
    return value


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


class KeyGuard:
    """Lets requests with one of the API keys through, and all of them when there are no keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        """Raises Unauthenticated; compares in constant time and never echoes a key."""
        if not self._keys or connection.url.path.startswith(_OPEN_PATHS):
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthenticated("No or wrong API key: send 'Authorization: Bearer KEY' with a key of BRIE_API_KEYS.")

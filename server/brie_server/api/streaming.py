"""Wire objects to server-sent events. It knows bytes and order, not what the objects mean."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send
from pydantic import BaseModel

from brie_core.errors import BrieError

logger = logging.getLogger("brie.api")
_DONE = b"data: [DONE]\n\n"


def event_stream(
    objects: AsyncIterator[BaseModel], headers: Mapping[str, str], aclose: Callable[[], Awaitable[None]]
) -> Stream:
    """A response that sends each object as it comes, then `[DONE]`; a failure is one error event, and the end.

    `aclose` is called once the response has ended, in whatever way: it frees what the objects come from.
    """
    return _ClosedStream(
        _events(objects),
        aclose,
        status_code=200,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
    )


class _ClosedStream(Stream):
    """The framework drops the iterator of a client that left, and leaves it to the garbage collector to end it."""

    def __init__(self, content: AsyncIterator[bytes], aclose: Callable[[], Awaitable[None]], **options: Any) -> None:
        super().__init__(content, **options)
        self._aclose = aclose

    def to_asgi_response(self, *args: Any, **options: Any) -> ASGIResponse:
        response = super().to_asgi_response(*args, **options)

        async def send_and_close(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await response(scope, receive, send)
            finally:
                await self._aclose()

        return send_and_close  # type: ignore[return-value]  # the framework only calls it


async def _events(objects: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    try:
        async for item in objects:
            yield b"data: " + item.model_dump_json(exclude_unset=True).encode() + b"\n\n"
        yield _DONE
    except BrieError as error:
        yield _error(error)
    except Exception:
        logger.exception("a stream failed")
        yield _error(BrieError("The server failed while answering; its log says why."))


def _error(error: BrieError) -> bytes:
    return b"data: " + json.dumps(error.envelope()).encode() + b"\n\n"

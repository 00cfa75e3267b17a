"""Wire objects to server-sent events. It knows bytes and order, not what the objects mean."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.types import Message, Receive, Scope, Send
from pydantic import BaseModel

from brie_core.errors import BrieError

logger = logging.getLogger("brie.api")
_DONE = b"data: [DONE]\n\n"
PING_AFTER_S = 15.0
"""Without anything to send. A proxy takes a silent stream for a dead one, usually after 30 or 60 seconds."""


class NamedEvent(Protocol):
    """An event that is told by name."""

    @property
    def type(self) -> str:
        """Its name."""
        ...

    def model_dump_json(self) -> str:
        """What it tells, with its name again."""
        ...


def event_stream(
    objects: AsyncIterator[BaseModel], headers: Mapping[str, str], aclose: Callable[[], Awaitable[None]]
) -> Stream:
    """A response that sends each object as it comes, then `[DONE]`; a failure is one error event, and the end.

    `aclose` is called once the response has ended, in whatever way: it frees what the objects come from.
    """
    return _stream(_events(objects), headers, aclose)


def named_event_stream(
    events: AsyncIterator[NamedEvent], headers: Mapping[str, str], aclose: Callable[[], Awaitable[None]]
) -> Stream:
    """The same for events that have a name: they tell failures themselves, and nothing comes after the last."""
    return _stream(_named_events(events), headers, aclose)


def _stream(content: AsyncIterator[bytes], headers: Mapping[str, str], aclose: Callable[[], Awaitable[None]]) -> Stream:
    return _ClosedStream(
        content,
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
            pinged = _Pinged(send)
            pinging = asyncio.create_task(pinged.ping())
            try:
                await response(scope, receive, pinged)
            finally:
                pinging.cancel()
                await self._aclose()

        return send_and_close  # type: ignore[return-value]  # the framework only calls it


class _Pinged:
    """Passes a response on, and comments on its silence; each event is one message, so that none is cut in two."""

    def __init__(self, send: Send) -> None:
        self._send, self._last_sent, self._is_open = send, time.monotonic(), False

    async def __call__(self, message: Message) -> None:
        """Send a message of the response."""
        self._is_open = message["type"] == "http.response.start" or bool(message.get("more_body"))
        self._last_sent = time.monotonic()
        await self._send(message)

    async def ping(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            silent = time.monotonic() - self._last_sent
            if self._is_open and silent >= PING_AFTER_S:
                await self({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
                silent = 0
            await asyncio.sleep(max(PING_AFTER_S - silent, 0.01))


def told(error: Exception) -> BrieError:
    """What the client is told of a failure in mid-stream; one that was not raised on purpose is logged."""
    if isinstance(error, BrieError):
        return error
    logger.error("a stream failed", exc_info=error)
    return BrieError("The server failed while answering; its log says why.")


async def _events(objects: AsyncIterator[BaseModel]) -> AsyncIterator[bytes]:
    try:
        async for item in objects:
            yield b"data: " + item.model_dump_json(exclude_unset=True).encode() + b"\n\n"
        yield _DONE
    except Exception as error:  # noqa: BLE001  # it is told, and logged if it is our fault
        yield b"data: " + json.dumps(told(error).envelope()).encode() + b"\n\n"


async def _named_events(events: AsyncIterator[NamedEvent]) -> AsyncIterator[bytes]:
    async for event in events:
        yield f"event: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()

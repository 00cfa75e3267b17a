"""Sees each answer that an httpx2 client of this process gets, and has it judged. It knows no test and no server."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import httpx2

from openai_document.judge import Exchange, faults_of

_Heard = Callable[[bytes, bool], None]
"""Is told the body, and whether it was read to its end."""


@contextmanager
def watched() -> Iterator[list[str]]:
    """What OpenAI's document says against the answers, growing until the end.

    The faults are gathered and not raised: the SDK would take an error inside its transport for one of the network.
    """
    faults: list[str] = []
    send, send_async = httpx2.HTTPTransport.handle_request, httpx2.ASGITransport.handle_async_request

    def handle(transport: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        response = send(transport, request)
        response.stream = _Stream(response.stream, _judge(request, response, faults))
        return response

    async def handle_async(transport: httpx2.ASGITransport, request: httpx2.Request) -> httpx2.Response:
        response = await send_async(transport, request)
        response.stream = _AsyncStream(response.stream, _judge(request, response, faults))
        return response

    with (
        patch.object(httpx2.HTTPTransport, "handle_request", handle),
        patch.object(httpx2.ASGITransport, "handle_async_request", handle_async),
    ):
        yield faults


def _judge(request: httpx2.Request, response: httpx2.Response, faults: list[str]) -> _Heard:
    def judge(body: bytes, is_whole: bool) -> None:
        faults.extend(
            faults_of(
                Exchange(
                    method=request.method,
                    path=request.url.path.removeprefix("/v1"),
                    request=_sent(request),
                    status=response.status_code,
                    content_type=response.headers.get("content-type", "").partition(";")[0],
                    body=body,
                    is_whole=is_whole,
                )
            )
        )

    return judge


def _sent(request: httpx2.Request) -> bytes:
    try:
        return request.content
    except httpx2.RequestNotRead:  # an upload, which no rule asks about
        return b""


class _Stream(httpx2.SyncByteStream):
    """Passes a body on, and tells it when it is over or given up."""

    def __init__(self, inner: Any, heard: _Heard) -> None:
        self._inner, self._heard, self._parts, self._is_whole = inner, heard, list[bytes](), False

    def __iter__(self) -> Iterator[bytes]:
        self._parts.clear()  # one in memory may be read again
        for part in self._inner:
            self._parts.append(part)
            yield part
        self._is_whole = True

    def close(self) -> None:
        self._inner.close()
        self._heard(b"".join(self._parts), self._is_whole)


class _AsyncStream(httpx2.AsyncByteStream):
    """The same for a body that is awaited."""

    def __init__(self, inner: Any, heard: _Heard) -> None:
        self._inner, self._heard, self._parts, self._is_whole = inner, heard, list[bytes](), False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts.clear()  # one in memory may be read again
        async for part in self._inner:
            self._parts.append(part)
            yield part
        self._is_whole = True

    async def aclose(self) -> None:
        await self._inner.aclose()
        self._heard(b"".join(self._parts), self._is_whole)

"""How a stream ends: whatever happens to its response, what it comes from is closed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar.testing import RequestFactory
from pydantic import BaseModel

from brie_server.api.streaming import event_stream


class Number(BaseModel):
    """Something to send."""

    number: int


async def numbers() -> AsyncIterator[Number]:
    for number in range(3):
        yield Number(number=number)
        await asyncio.sleep(0)


@pytest.mark.parametrize("leaves_after", [0, 1, 3, 99])
async def test_what_a_stream_comes_from_is_closed_whenever_the_client_leaves(leaves_after: int) -> None:
    """At once, too, though something still refers to it: it is not left to the garbage collector."""
    closed: list[int] = []
    sent: list[Any] = []
    gone = asyncio.Event()

    async def aclose() -> None:
        closed.append(len(sent))

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > leaves_after or message.get("more_body") is False:
            gone.set()

    async def receive() -> Any:
        if leaves_after:
            await gone.wait()
        return {"type": "http.disconnect"}

    request, objects = RequestFactory().post(), numbers()
    response = event_stream(objects, {}, aclose).to_asgi_response(None, request)
    await response(request.scope, receive, send)
    assert closed == [len(sent)]


async def test_a_silent_stream_is_commented_on_and_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brie_server.api.streaming.PING_AFTER_S", 0.05)
    bodies: list[bytes] = []

    async def slow() -> AsyncIterator[Number]:
        for number in range(2):
            await asyncio.sleep(0.2)
            yield Number(number=number)

    over = asyncio.Event()

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))
        if message.get("more_body") is False:
            over.set()

    async def receive() -> Any:
        await over.wait()
        return {"type": "http.disconnect"}

    async def aclose() -> None:
        pass

    request = RequestFactory().post()
    response = event_stream(slow(), {}, aclose).to_asgi_response(None, request)
    await response(request.scope, receive, send)
    await asyncio.sleep(0.2)
    assert 4 <= bodies.count(b": ping\n\n") <= 8
    spoken = b"".join(body for body in bodies if body != b": ping\n\n")
    assert spoken == b'data: {"number":0}\n\ndata: {"number":1}\n\ndata: [DONE]\n\n'

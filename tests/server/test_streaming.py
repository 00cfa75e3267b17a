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

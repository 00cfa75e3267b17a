"""Ends the work for a request whose client has gone. It knows ASGI's messages and tasks, and not what the work is.

Once a stream's response has begun, the framework listens for the disconnect. Before that, and for all answers that are
sent whole, nobody does, and the work would go on for a reader who is no longer there.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request

from brie_core.errors import ClientGone

_T = TypeVar("_T")


async def while_connected(request: Request[Any, Any, Any], work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` gives; if the client goes first, the work is cancelled and ClientGone raised.

    The request's body must have been read. Work and watch have ended when this returns, however it does.
    """
    working, watching = asyncio.create_task(work), asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("The client closed the connection before its answer was there.")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait((working, watching))


async def _disconnect(request: Request[Any, Any, Any]) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Wire objects to server-sent events. It knows bytes and order, not what the objects mean."""

import json
import logging
from collections.abc import AsyncIterator, Mapping

from litestar.response import Stream
from pydantic import BaseModel

from brie_core.errors import BrieError

logger = logging.getLogger("brie.api")
_DONE = b"data: [DONE]\n\n"


def event_stream(objects: AsyncIterator[BaseModel], headers: Mapping[str, str]) -> Stream:
    """A response that sends each object as it comes, then `[DONE]`; a failure is one error event, and the end."""
    return Stream(
        _events(objects),
        status_code=200,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
    )


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

"""Finished responses, so that later ones can go on from them: a row each, whole in itself. It knows JSON, no model.

A row has all the items that its response was made from, those of its predecessors too: so any row can be deleted, or
expire, and what came after it stays whole. What is kept is bounded in age, number and bytes; the oldest go first.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from brie_core.errors import NotFound
from brie_core.identifiers import new_id
from brie_core.store.database import Database, exclusive
from brie_core.store.tables import responses

LIFETIME_S = 30 * 24 * 3600
"""As long as OpenAI keeps them."""
MOST_RESPONSES = 20_000
MOST_BYTES = 2**30
"""Of JSON, in all rows together."""
_ID_LENGTH = len(new_id("resp", "_"))


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A finished response."""

    response: Mapping[str, Any]
    """As it was answered."""
    items: Sequence[Mapping[str, Any]]
    """What it was made from, oldest first."""


def new_response_id() -> str:
    """A fresh id of a response."""
    return new_id("resp", "_")


def new_item_id(response_id: str, prefix: str, number: int) -> str:
    """The id of a response's item, from which the response can be found."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{number:x}"


class ResponseStore:
    """The responses of one database."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        *,
        most_responses: int = MOST_RESPONSES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._database, self._clock = database, clock
        self._most_responses, self._most_bytes = most_responses, most_bytes

    async def save(self, response: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Keep a finished response; makes room first. One that is larger than all room is not kept for long."""
        texts = await asyncio.to_thread(lambda: [json.dumps(each) for each in (response, list(items))])
        size = sum(map(len, texts))
        row = {"id": response["id"], "created_at": int(self._clock()), "bytes": size}
        async with self._database.write() as connection:
            await exclusive(connection, "responses")
            await self._make_room(connection, size)
            await connection.execute(insert(responses).values(row | {"response": texts[0], "context": texts[1]}))

    async def get(self, response_id: str) -> StoredResponse:
        """One response; raises NotFound, also once it has expired."""
        query = select(responses).where(responses.c.id == response_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None or row.created_at <= self._clock() - LIFETIME_S:
            raise no_such_response(response_id)
        return StoredResponse(*await asyncio.to_thread(lambda: (json.loads(row.response), json.loads(row.context))))

    async def item(self, item_id: str) -> Mapping[str, Any]:
        """An item that a kept response was made from or holds; raises NotFound."""
        response_id = f"resp_{item_id.rpartition('_')[2]}"[:_ID_LENGTH]
        try:
            stored = await self.get(response_id)
        except NotFound:
            raise _no_such_item(item_id) from None
        for item in (*stored.items, *stored.response["output"]):
            if item["id"] == item_id:
                found: Mapping[str, Any] = item
                return found
        raise _no_such_item(item_id)

    async def delete(self, response_id: str) -> None:
        """Remove a response; raises NotFound. Those that go on from it have all they need."""
        async with self._database.write() as connection:
            removed = await connection.execute(delete(responses).where(responses.c.id == response_id))
        if removed.rowcount == 0:
            raise no_such_response(response_id)

    async def _make_room(self, connection: AsyncConnection, size: int) -> None:
        too_old = responses.c.created_at <= int(self._clock() - LIFETIME_S)
        await connection.execute(delete(responses).where(too_old))
        totals = select(func.count(), func.coalesce(func.sum(responses.c.bytes), 0)).select_from(responses)
        number, total = (await connection.execute(totals)).one()
        while number and (number >= self._most_responses or total + size > self._most_bytes):
            oldest = select(responses.c.id, responses.c.bytes).order_by(responses.c.created_at, responses.c.id).limit(1)
            gone_id, gone = (await connection.execute(oldest)).one()
            await connection.execute(delete(responses).where(responses.c.id == gone_id))
            number, total = number - 1, total - gone


def no_such_response(response_id: str) -> NotFound:
    """The 404 of a response that never was, is gone, or was not to be kept."""
    return NotFound(
        f"Response with id {response_id!r} not found: it was deleted, has expired, or was made with store: false.",
        code="response_not_found",
    )


def _no_such_item(item_id: str) -> NotFound:
    return NotFound(
        f"Item with id {item_id!r} not found: the response it belongs to was deleted, has expired, or was made with "
        "store: false. Send the item itself.",
        code="item_not_found",
    )

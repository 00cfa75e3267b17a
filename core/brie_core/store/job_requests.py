"""Which job a request has made already, so that a client that asks again gets it. It knows rows, and no headers."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from brie_core.errors import InvalidRequest
from brie_core.store.jobs import JobKind
from brie_core.store.tables import jobs

KEY_SECONDS = 24 * 3600
"""How long a key stands for the job that it made."""
RETRY_SECONDS = 15 * 60
"""How long a client may ask again without a key: it waits 600 seconds for an answer before it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What a job was asked for with; kept in its spec as `request`."""

    body: str
    """Digest of all that was asked for."""
    key: str | None = None
    """The caller's own name for this request."""
    is_repeated: bool = False
    """The caller says that it asks again, having had no answer."""

    def as_json(self) -> dict[str, Any]:
        """As a spec holds it."""
        return {"body": self.body, "key": self.key}


async def row_made_by(connection: AsyncConnection, kind: JobKind, request: JobRequest, now: float) -> Row[Any] | None:
    """The row that this very request made, within the writer's transaction; raises InvalidRequest for a used key."""
    if request.key is None and not request.is_repeated:
        return None
    oldest = now - (RETRY_SECONDS if request.key is None else KEY_SECONDS)
    recent = select(jobs).where(jobs.c.kind == kind, jobs.c.created_at >= int(oldest)).order_by(jobs.c.id.desc())
    for row in (await connection.execute(recent)).all():
        made = row.spec.get("request") or {}
        if request.key is not None and made.get("key") == request.key:
            return _of_the_same_body(row, request)
        if request.key is None and made.get("key") is None and made.get("body") == request.body:
            return row
    return None


def _of_the_same_body(row: Row[Any], request: JobRequest) -> Row[Any]:
    if row.spec["request"]["body"] != request.body:
        raise InvalidRequest(
            f"Another request with this Idempotency-Key made job {row.id}: take a new key for a new job.",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    return row

"""Which workers there are: a row each, renewed while they live. It knows rows and times, not what a worker does."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from brie_core.store.database import Database
from brie_core.store.tables import jobs, workers

BEAT_SECONDS = 5.0
ALIVE_SECONDS = 20.0
"""Whoever was not seen for so long is gone, frozen, or cut off from the database."""
_FORGOTTEN_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a worker says of itself."""

    id: str
    """The owner of its leases."""
    host: str
    pid: int
    device: str
    version: str
    kinds: Sequence[str]
    """What it does: values of JobKind."""
    started_at: int
    waits_for: str | None = None
    """Why it cannot take a job, in words; None if it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWorker:
    """A worker as the others see it."""

    worker: Worker
    seen_at: int
    is_alive: bool
    jobs: Sequence[str]
    """Those in its hands, oldest first."""


class WorkerStore:
    """The workers of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] | None = None) -> None:
        self._database = database
        self._now = clock or database.now

    async def beat(self, worker: Worker) -> None:
        """The worker lives."""
        values = asdict(worker) | {"seen_at": self._now()}
        async with self._database.write() as connection:
            renewed = await connection.execute(update(workers).where(workers.c.id == worker.id).values(values))
            if renewed.rowcount == 0:
                await connection.execute(delete(workers).where(workers.c.seen_at < self._now() - _FORGOTTEN_SECONDS))
                await connection.execute(insert(workers).values(values))

    async def leave(self, worker_id: str) -> None:
        """The worker ends by itself; no error if it is not known."""
        async with self._database.write() as connection:
            await connection.execute(delete(workers).where(workers.c.id == worker_id))

    async def list(self) -> Sequence[SeenWorker]:
        """Oldest first, those too that are gone since less than a day."""
        now = self._now()
        since = literal(now) if isinstance(now, float) else now
        query = select(workers, since.label("now")).order_by(workers.c.started_at, workers.c.id)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
            held = await _held(connection, now)
        return [_seen(row, held[row.id]) for row in rows]


async def _held(connection: AsyncConnection, now: Any) -> dict[str, list[str]]:
    """The jobs in each owner's hands."""
    query = select(jobs.c.id, jobs.c.lease_owner).where(jobs.c.lease_owner.is_not(None), jobs.c.lease_expires_at >= now)
    found: dict[str, list[str]] = defaultdict(list)
    for job_id, owner in (await connection.execute(query.order_by(jobs.c.id))).all():
        found[owner].append(job_id)
    return found


def _seen(row: Any, held: Sequence[str]) -> SeenWorker:
    told = {name: value for name, value in row._mapping.items() if name not in {"seen_at", "now"}}
    is_alive = row.now - row.seen_at < ALIVE_SECONDS
    return SeenWorker(worker=Worker(**told), seen_at=int(row.seen_at), is_alive=is_alive, jobs=tuple(held))

"""Jobs, their events and checkpoints as rows. It knows leases and fences, not what a job does.

A worker's every write names the lease token it was given at its claim; a claim, a takeover and a cancellation each
count the token up, so whoever lost the job breaks on the fence and can write nothing.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from brie_core.errors import Conflict, InvalidRequest, LeaseLost, NotFound
from brie_core.identifiers import new_id
from brie_core.store.aliases import point_alias
from brie_core.store.database import Database, exclusive
from brie_core.store.job_requests import JobRequest, row_made_by
from brie_core.store.jobs import (
    ID_PREFIXES,
    Checkpoint,
    Event,
    Job,
    JobKind,
    JobStatus,
    Lease,
    NewEvent,
    is_final,
    may_move,
    paused_from,
)
from brie_core.store.tables import checkpoints, events, jobs

Clock = Callable[[], float]
_VALIDATING = JobStatus.VALIDATING_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCheckpoint:
    """A checkpoint about to be written; the name it answers under is written with it."""

    step: int
    model: str
    version: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """All that a worker writes at once; None leaves a column as it is."""

    events: Sequence[NewEvent] = ()
    checkpoints: Sequence[NewCheckpoint] = ()
    aliases: Mapping[str, str] | None = None
    """Names to point at adapter versions."""
    result: Mapping[str, Any] | None = None
    """Merged into the job's result."""
    status: JobStatus | None = None
    error: Mapping[str, Any] | None = None
    attempt: int | None = None
    events_offset: int | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    """By which a change that may have been made already is known again."""

    def at(self, events_offset: int) -> "Change":
        """The same change, with the place in the child's events up to which it goes."""
        return replace(self, events_offset=events_offset)


class JobStore:
    """The jobs of one database."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or time.time
        self._now = clock or database.now
        """What leases are held to: hosts that share a database need not agree on the time."""

    async def create(
        self,
        kind: JobKind,
        spec: Mapping[str, Any],
        status: JobStatus,
        created: Sequence[NewEvent],
        request: JobRequest | None = None,
    ) -> Job:
        """Write a new job with its first events; `request` made before is answered with the job that it made."""
        job_id = new_id(ID_PREFIXES[kind])
        asked = {} if request is None else {"request": request.as_json()}
        row = {"id": job_id, "kind": kind, "status": status, "spec": {**spec, **asked}, "result": {}, "attempt": 0}
        row |= {"created_at": int(self._clock()), "events_offset": 0, "lease_token": 0, "lease_expires_at": 0.0}
        async with self._database.write() as connection:
            if request:
                await exclusive(connection, f"requests of {kind}")
            if request and (made := await row_made_by(connection, kind, request, self._clock())) is not None:
                return _job(made)
            await connection.execute(insert(jobs).values(row))
            await self._insert_events(connection, job_id, created)
            return await _require(connection, job_id)

    async def get(self, job_id: str, kind: JobKind | None = None) -> Job:
        """One job; raises NotFound, also if it is of another kind."""
        async with self._database.read() as connection:
            job = await _require(connection, job_id)
        if kind is not None and job.kind is not kind:
            raise _no_such_job(job_id)
        return job

    async def list(
        self, kind: JobKind, *, limit: int, after: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> list[Job]:
        """Newest first, beginning behind the job `after`."""
        query = select(jobs).where(jobs.c.kind == kind).order_by(jobs.c.id.desc())
        if after is not None:
            query = query.where(jobs.c.id < after)
        async with self._database.read() as connection:
            rows = (await connection.execute(query if metadata else query.limit(limit))).all()
        wanted = (metadata or {}).items()
        return [job for job in map(_job, rows) if wanted <= (job.spec.get("metadata") or {}).items()][:limit]

    async def list_active(self) -> Sequence[Job]:
        """Every job that is not finished, oldest first."""
        final = [status for status in JobStatus if is_final(status)]
        async with self._database.read() as connection:
            query = select(jobs).where(jobs.c.status.not_in(final)).order_by(jobs.c.id)
            return [_job(row) for row in (await connection.execute(query)).all()]

    async def cancel(self, job_id: str, kind: JobKind) -> Job:
        """Cancel a job that is not finished; its worker finds itself fenced off. Raises NotFound or InvalidRequest."""
        async with self._database.write() as connection:
            job = await self._of_kind(connection, job_id, kind)
            if not may_move(job.status, JobStatus.CANCELLED):
                raise InvalidRequest(
                    f"Job {job_id} is {job.status} and can no longer be cancelled.", code="job_already_finished"
                )
            values = {"status": JobStatus.CANCELLED, "finished_at": int(self._clock())}
            return await self._move(connection, job, values, "The job was cancelled", fence=True)

    async def pause(self, job_id: str, kind: JobKind) -> Job:
        """Pause a waiting job at once, ask the worker of a running one to; the same again changes nothing.

        Raises NotFound, and InvalidRequest for a job that is finished.
        """
        async with self._database.write() as connection:
            job = await self._of_kind(connection, job_id, kind)
            status = paused_from(job.status)
            if status is None:
                raise InvalidRequest(f"Job {job_id} is {job.status}: it cannot be paused.", code="job_not_pausable")
            if status is job.status:
                return job
            at_once = status is JobStatus.PAUSED
            values = {"status": status, "result": {**job.result, "validated": job.status is not _VALIDATING}}
            words = "The job is paused" if at_once else "The job is pausing: its worker writes a checkpoint"
            return await self._move(connection, job, values, words, fence=at_once)

    async def resume(self, job_id: str, kind: JobKind) -> Job:
        """Put a paused job back into the queue; raises NotFound, and InvalidRequest for any other."""
        async with self._database.write() as connection:
            job = await self._of_kind(connection, job_id, kind)
            if job.status is not JobStatus.PAUSED:
                raise InvalidRequest(
                    f"Job {job_id} is {job.status}, not paused: there is nothing to resume.", code="job_not_paused"
                )
            status = JobStatus.QUEUED if job.result.get("validated", True) else _VALIDATING
            return await self._move(connection, job, {"status": status}, "The job is resumed", fence=True)

    async def resume_failed(self, job_id: str, kind: JobKind) -> Job:
        """Put a failed job back into the queue, for a new attempt to go on from what the others kept.

        Raises NotFound, and Conflict for a job that has not failed.
        """
        async with self._database.write() as connection:
            job = await self._of_kind(connection, job_id, kind)
            if job.status is not JobStatus.FAILED:
                raise Conflict(
                    f"Job {job_id} is {job.status}: only one that has failed is resumed.", code="job_not_failed"
                )
            result = {**job.result, "crashes": 0, "message": None}
            values = {"status": JobStatus.QUEUED, "finished_at": None, "error": None, "result": result}
            return await self._move(connection, job, values, "The job is resumed", fence=True)

    async def delete(self, job_id: str, kind: JobKind) -> None:
        """Take away a finished job and all that was told of it; raises NotFound, and Conflict for any other."""
        async with self._database.write() as connection:
            job = await self._of_kind(connection, job_id, kind)
            check_finished(job)
            for table in (events, checkpoints):
                await connection.execute(delete(table).where(table.c.job_id == job_id))
            await connection.execute(delete(jobs).where(jobs.c.id == job_id))

    async def adopt(self, job_id: str, kind: JobKind, spec: Mapping[str, Any], created_at: int, attempt: int) -> Job:
        """Write the row of a job whose folder came from elsewhere, paused behind its last attempt; raises Conflict."""
        row: dict[str, Any] = {"id": job_id, "kind": kind, "status": JobStatus.PAUSED, "spec": dict(spec)}
        row |= {"result": {}, "attempt": attempt, "created_at": created_at, "events_offset": 0}
        async with self._database.write() as connection:
            await exclusive(connection, f"job {job_id}")
            if (await connection.execute(select(jobs.c.id).where(jobs.c.id == job_id))).first() is not None:
                raise Conflict(f"Job {job_id} is here already.", code="job_exists")
            await connection.execute(insert(jobs).values(row | {"lease_token": 0, "lease_expires_at": 0.0}))
            await self._insert_events(connection, job_id, [NewEvent(message="Adopted from a job folder")])
            return await _require(connection, job_id)

    async def claim(
        self, owner: str, kind: JobKind, statuses: Iterable[JobStatus], ttl: float, *, takes_over: bool = True
    ) -> tuple[Lease, Job] | None:
        """Take the oldest free job of `kind` in one of `statuses`, for `ttl` seconds; one UPDATE decides.

        Free is what nobody holds and, if `takes_over`, what is held by a lease that ran out.
        """
        now = self._now()
        wanted = [status for status in statuses if not is_final(status)]
        unheld = jobs.c.lease_owner.is_(None)
        free = or_(unheld, jobs.c.lease_expires_at < now) if takes_over else unheld
        oldest = select(jobs.c.id).where(jobs.c.kind == kind, jobs.c.status.in_(wanted), free)
        first = oldest.order_by(jobs.c.id).limit(1).with_for_update(skip_locked=True).scalar_subquery()
        values = {"lease_owner": owner, "lease_expires_at": now + ttl, "lease_token": jobs.c.lease_token + 1}
        async with self._database.write() as connection:
            claimed = update(jobs).where(jobs.c.id == first).values(values).returning(jobs)
            row = (await connection.execute(claimed)).one_or_none()
        return None if row is None else (Lease(row.id, owner, row.lease_token), _job(row))

    async def renew(self, lease: Lease, ttl: float) -> JobStatus:
        """Hold the job for `ttl` seconds more; returns its status, which others change. Raises LeaseLost."""
        async with self._database.write() as connection:
            values = {"lease_expires_at": self._now() + ttl}
            renewed = update(jobs).where(*_fence(lease)).values(values).returning(jobs.c.status)
            status = (await connection.execute(renewed)).scalar_one_or_none()
        if status is None:
            raise _lost(lease)
        return JobStatus(status)

    async def release(self, lease: Lease) -> None:
        """Give the job back, for any worker to claim at once; no error if it was lost already."""
        async with self._database.write() as connection:
            values = {"lease_owner": None, "lease_expires_at": 0.0, "lease_token": jobs.c.lease_token + 1}
            await connection.execute(update(jobs).where(*_fence(lease)).values(values))

    async def write(self, lease: Lease, change: Change) -> Job:
        """Write everything in `change` or, when the lease is lost, nothing; raises LeaseLost.

        After DatabaseUnavailable the very same change may be written again: it is made once.
        """
        async with self._database.write() as connection:
            row = (await connection.execute(select(jobs).where(*_fence(lease)).with_for_update())).one_or_none()
            if row is not None and row.last_change == change.id:
                return _job(row)
            if row is None or is_final(JobStatus(row.status)):
                raise _lost(lease)
            job = _job(row)
            values = self._changed_columns(job, change) | {"last_change": change.id}
            await connection.execute(update(jobs).where(jobs.c.id == job.id).values(values))
            await self._insert_checkpoints(connection, job.id, change.checkpoints)
            for name, version in (change.aliases or {}).items():
                await point_alias(connection, name, version, job.id, int(self._clock()))
            await self._insert_events(connection, job.id, change.events)
            return await _require(connection, job.id)

    async def events(self, job_id: str, *, limit: int, after: str | None = None) -> Sequence[Event]:
        """Newest first, beginning behind the event `after`."""
        query = select(events).where(events.c.job_id == job_id).order_by(events.c.seq.desc()).limit(limit)
        if after is not None:
            bound = select(events.c.seq).where(events.c.id == after).scalar_subquery()
            query = query.where(events.c.seq < bound)
        async with self._database.read() as connection:
            return [Event(**row._mapping) for row in (await connection.execute(query)).all()]

    async def events_since(self, job_id: str, seq: int, *, limit: int) -> Sequence[Event]:
        """Oldest first, beginning behind the event numbered `seq`."""
        query = select(events).where(events.c.job_id == job_id, events.c.seq > seq).order_by(events.c.seq).limit(limit)
        async with self._database.read() as connection:
            return [Event(**row._mapping) for row in (await connection.execute(query)).all()]

    async def seq_of(self, job_id: str, event_id: str) -> int | None:
        """The number of an event within its job; None if it is not one of the job's."""
        query = select(events.c.seq).where(events.c.job_id == job_id, events.c.id == event_id)
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()

    async def in_hand(self, kind: JobKind) -> frozenset[str]:
        """Ids of the jobs that a worker holds."""
        held = (jobs.c.lease_owner.is_not(None), jobs.c.lease_expires_at >= self._now())
        async with self._database.read() as connection:
            found = await connection.execute(select(jobs.c.id).where(jobs.c.kind == kind, *held))
            return frozenset(found.scalars())

    async def checkpoints(self, job_id: str, *, limit: int, after: str | None = None) -> Sequence[Checkpoint]:
        """Newest first, beginning behind the checkpoint `after`."""
        query = (
            select(checkpoints).where(checkpoints.c.job_id == job_id).order_by(checkpoints.c.step.desc()).limit(limit)
        )
        if after is not None:
            bound = select(checkpoints.c.step).where(checkpoints.c.id == after).scalar_subquery()
            query = query.where(checkpoints.c.step < bound)
        async with self._database.read() as connection:
            return [Checkpoint(**row._mapping) for row in (await connection.execute(query)).all()]

    async def _of_kind(self, connection: AsyncConnection, job_id: str, kind: JobKind) -> Job:
        """To be changed: nobody else changes it before this transaction's end."""
        job = await _require(connection, job_id, for_update=True)
        if job.kind is not kind:
            raise _no_such_job(job_id)
        return job

    async def _move(
        self, connection: AsyncConnection, job: Job, values: Mapping[str, Any], words: str, *, fence: bool
    ) -> Job:
        """What a caller, not a worker, changes; `fence` takes the job out of its worker's hands."""
        held = {"lease_owner": None, "lease_token": jobs.c.lease_token + 1} if fence else {}
        await connection.execute(update(jobs).where(jobs.c.id == job.id).values({**values, **held}))
        await self._insert_events(connection, job.id, [NewEvent(message=words)])
        return await _require(connection, job.id)

    def _changed_columns(self, job: Job, change: Change) -> dict[str, Any]:
        plain = {"error": change.error, "attempt": change.attempt, "events_offset": change.events_offset}
        values: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
        if change.result is not None:
            values["result"] = {**job.result, **change.result}
        if change.status is None:
            return values
        if not may_move(job.status, change.status):
            raise ValueError(f"a {job.status} job cannot become {change.status}")
        values["status"] = change.status
        if is_final(change.status):
            values["finished_at"] = int(self._clock())
        return values

    async def _insert_events(self, connection: AsyncConnection, job_id: str, new: Sequence[NewEvent]) -> None:
        last = (await connection.execute(_last_seq(job_id))).scalar_one()
        for seq, event in enumerate(new, start=last + 1):
            row = {"id": new_id("ftevent"), "job_id": job_id, "seq": seq, "created_at": int(self._clock())}
            row |= {"level": event.level, "type": event.type, "message": event.message, "data": dict(event.data)}
            await connection.execute(insert(events).values(row))

    async def _insert_checkpoints(self, connection: AsyncConnection, job_id: str, new: Sequence[NewCheckpoint]) -> None:
        for checkpoint in new:
            now = int(self._clock())
            known = select(checkpoints.c.id).where(
                checkpoints.c.job_id == job_id, checkpoints.c.step == checkpoint.step
            )
            if (await connection.execute(known)).first() is None:
                row = {"id": new_id("ftckpt"), "job_id": job_id, "step": checkpoint.step, "created_at": now}
                row |= {"model": checkpoint.model, "version": checkpoint.version, "metrics": dict(checkpoint.metrics)}
                await connection.execute(insert(checkpoints).values(row))
            await point_alias(connection, checkpoint.model, checkpoint.version, job_id, now)


def _fence(lease: Lease) -> tuple[Any, ...]:
    """Holds until another claim or a cancellation counts the token up."""
    return (jobs.c.id == lease.job_id, jobs.c.lease_owner == lease.owner, jobs.c.lease_token == lease.token)


def _last_seq(job_id: str) -> Select[tuple[int]]:
    return select(func.coalesce(func.max(events.c.seq), 0)).where(events.c.job_id == job_id)


async def _require(connection: AsyncConnection, job_id: str, *, for_update: bool = False) -> Job:
    found = select(jobs).where(jobs.c.id == job_id)
    row = (await connection.execute(found.with_for_update() if for_update else found)).one_or_none()
    if row is None:
        raise _no_such_job(job_id)
    return _job(row)


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        status=JobStatus(row.status),
        spec=row.spec,
        result=row.result,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
        attempt=row.attempt,
        events_offset=row.events_offset,
    )


def check_finished(job: Job) -> None:
    """Raises Conflict for a job that a worker has, or will have, in hand."""
    if not is_final(job.status):
        raise Conflict(f"Job {job.id} is {job.status}: cancel it, or wait for its end.", code="job_not_finished")


def _no_such_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}.", param="id", code="job_not_found")


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"Job {lease.job_id} was cancelled, finished, or taken over by another worker.")

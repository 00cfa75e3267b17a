"""Claims jobs, runs their children, turns their events into rows. It knows leases and processes; no torch, no HTTP.

Three loops side by side: one validates new fine-tuning jobs (so that a bad file is told at once, however long the
queue), one trains, one exports. Whoever loses a lease, by takeover or cancellation, kills its child and writes nothing.
"""

import asyncio
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from brie_core.durable import is_disk_full
from brie_core.errors import BrieError, LeaseLost, NotFound
from brie_core.settings import Settings
from brie_core.store.job_store import Change, JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus, Lease, NewEvent, is_final
from brie_trainer.child import Child
from brie_trainer.event_log import read_lines
from brie_trainer.export import ExportKind
from brie_trainer.fine_tune import FineTuneKind
from brie_trainer.kind import Kind, failure

logger = logging.getLogger("brie.worker")
_MAX_CRASHES = 3
_POLL_SECONDS = 0.3
_NOTICED_SECONDS = 0.3
"""How long a cancellation or a pause may go unnoticed."""
_PAUSE_SECONDS = 120.0
"""What a process has to stop behind a checkpoint; one that hangs is then ended, and resumed from an older one."""
_RUNNABLE = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING)


@dataclass(slots=True)
class Held:
    """A job in this worker's hands, and what has become of it meanwhile."""

    lease: Lease
    lost: bool = False
    """Cancelled or taken over: its child is to be killed, and nothing more written."""
    pausing: bool = False
    """Its child is to stop behind a checkpoint."""


class Worker:
    """One worker process's work."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        fine_tune: FineTuneKind,
        export: ExportKind,
        lease_seconds: float = 15.0,
    ) -> None:
        self._home = settings.home
        self._jobs = jobs
        self._fine_tune = fine_tune
        self._kinds: dict[JobKind, Kind] = {JobKind.FINE_TUNE: fine_tune, JobKind.EXPORT: export}
        self._lease_seconds = lease_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    async def run(self) -> None:
        """Work until cancelled; a job in hand is then given back for the next worker to go on with."""
        for folder in (self._home / "jobs").glob("*/"):
            with suppress(NotFound):
                tidy(folder, await self._jobs.get(folder.name))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._serve(JobKind.FINE_TUNE, (JobStatus.VALIDATING_FILES,)))
            group.create_task(self._serve(JobKind.FINE_TUNE, _RUNNABLE))
            group.create_task(self._serve(JobKind.EXPORT, _RUNNABLE))

    async def _serve(self, kind: JobKind, statuses: Iterable[JobStatus]) -> None:
        while True:
            try:
                claimed = await self._jobs.claim(self._owner, kind, statuses, self._lease_seconds)
            except DBAPIError:
                logger.exception("the database does not answer")
                claimed = None
            if claimed is None:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            await self._hold(*claimed)

    async def _hold(self, lease: Lease, job: Job) -> None:
        """Do the job's next part; a worker that is told to stop meanwhile gives the job back."""
        held = Held(lease)
        part = self._validate if job.status is JobStatus.VALIDATING_FILES else self._run
        try:
            await self._renewed(held, self._guarded(lease, part(held, job)))
        except asyncio.CancelledError:
            await asyncio.shield(self._say_goodbye(lease))
            raise
        except Exception:  # what even `_guarded` could not write down must not end the worker
            logger.exception("%s could not be carried on", job.id)
            await asyncio.sleep(_POLL_SECONDS)
        finally:
            await asyncio.shield(self._let_go(lease))

    async def _let_go(self, lease: Lease) -> None:
        """Free the job for others and, once it is finished, the disk; a database that does not answer frees neither."""
        folder = self._home / "jobs" / lease.job_id
        try:
            await self._jobs.release(lease)
            tidy(folder, await self._jobs.get(lease.job_id))
        except NotFound:  # deleted in the moment between its end and this one
            shutil.rmtree(folder, ignore_errors=True)
        except DBAPIError:
            logger.exception("the lease of %s runs out by itself", lease.job_id)

    async def _renewed(self, held: Held, part: Coroutine[Any, Any, None]) -> None:
        """Do `part` while the lease is renewed beside it; losing the lease ends both."""
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep(held))
                await part
                keeper.cancel()
        except* LeaseLost:
            logger.info("%s was cancelled or taken over", held.lease.job_id)

    async def _guarded(self, lease: Lease, part: Coroutine[Any, Any, None]) -> None:
        """What goes wrong in our own part fails the job, not the worker."""
        try:
            await part
        except LeaseLost:
            raise
        except BrieError as error:
            await self._write(lease, failure({"code": error.code, "message": error.message, "param": error.param}))
        except Exception as error:
            logger.exception("job %s failed in the worker", lease.job_id)
            code = "insufficient_storage" if is_disk_full(error) else "internal_error"
            await self._write(lease, failure({"code": code, "message": f"{type(error).__name__}: {error}"}))

    async def _keep(self, held: Held) -> None:
        """Renew often: this is also how a cancellation and a pause are noticed."""
        while True:
            await asyncio.sleep(min(_NOTICED_SECONDS, self._lease_seconds / 3))
            try:
                status = await self._jobs.renew(held.lease, self._lease_seconds)
                held.pausing = status is JobStatus.PAUSING
            except LeaseLost:
                held.lost = True
                raise
            except DBAPIError:
                logger.exception("the lease of %s could not be renewed", held.lease.job_id)

    async def _write(self, lease: Lease, change: Change) -> Job:
        """Write, and wait for the database if it does not answer."""
        while True:
            try:
                return await self._jobs.write(lease, change)
            except DBAPIError:
                logger.exception("job %s could not be written", lease.job_id)
                await asyncio.sleep(1.0)

    async def _validate(self, held: Held, job: Job) -> None:
        await self._write(held.lease, await self._fine_tune.validate(job))

    async def _run(self, held: Held, job: Job) -> None:
        """What an earlier attempt left to be told is told first; then a new attempt goes on from its checkpoints."""
        lease, kind, attempts = held.lease, self._kinds[job.kind], self._home / "jobs" / job.id / "attempts"
        job = await self._drain(lease, job, attempts / str(job.attempt))
        if is_final(job.status):
            return
        if job.status is JobStatus.PAUSING:  # whoever was asked to pause is gone
            await self._paused(lease)
            return
        folder = attempts / str(job.attempt + 1)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        await kind.prepare(job, folder)
        job = await self._begin(lease, job)
        child = await Child.start(kind.module, folder)
        try:
            job = await self._follow(held, job, folder, child)
        except LeaseLost:  # a write may notice it before the lease's keeper does
            held.lost = True
            raise
        finally:
            await asyncio.shield(child.kill() if held.lost else child.stop())
        if job.status is JobStatus.PAUSING:
            await self._paused(lease)
        elif not is_final(job.status):
            await self._crashed(lease, job, child)

    async def _begin(self, lease: Lease, job: Job) -> Job:
        word = "started" if job.attempt == 0 else "continued"
        name = "Fine-tuning job" if job.kind is JobKind.FINE_TUNE else "Export"
        return await self._write(
            lease,
            Change(
                status=JobStatus.RUNNING if job.status is JobStatus.QUEUED else None,
                attempt=job.attempt + 1,
                events_offset=0,
                events=[NewEvent(message=f"{name} {word}")],
            ),
        )

    async def _follow(self, held: Held, job: Job, folder: Path, child: Child) -> Job:
        asked: float | None = None
        while not is_final(job.status):
            ended = child.status is not None
            job = await self._drain(held.lease, job, folder)
            if ended:
                break
            if held.pausing and asked is None:
                child.ask_to_stop()
                asked = time.monotonic()
            elif asked is not None and time.monotonic() - asked > _PAUSE_SECONDS:
                await child.kill()
            await asyncio.sleep(_POLL_SECONDS)
        return await self._jobs.get(job.id) if held.pausing else job

    async def _drain(self, lease: Lease, job: Job, folder: Path) -> Job:
        """Turn every whole line not yet seen into rows, each line in one transaction with its offset."""
        for line in read_lines(folder / "events.jsonl", job.events_offset):
            change = await self._kinds[job.kind].change(job, folder, line.event)
            job = await self._write(lease, change.at(line.end))
            if is_final(job.status):
                break
        return job

    async def _paused(self, lease: Lease) -> None:
        await self._write(lease, Change(status=JobStatus.PAUSED, events=[NewEvent(message="The job is paused")]))

    async def _say_goodbye(self, lease: Lease) -> None:
        """The worker is stopping. The job stays as it is: what its child told last is read by whoever goes on."""
        stopping = NewEvent(message="The worker is stopping; the job goes on when one is back", level="warn")
        with suppress(LeaseLost, DBAPIError):
            await self._jobs.write(lease, Change(events=[stopping]))

    async def _crashed(self, lease: Lease, job: Job, child: Child) -> None:
        """The child ended without a last word: try again from the last checkpoint, a few times without a new one."""
        crashes = job.result.get("crashes", 0) + 1
        reason = f"The job's process ended with status {child.status}"
        reason += " (killed: out of memory?)" if child.status == -9 else ""
        if crashes >= _MAX_CRASHES:
            message = f"{reason}, {crashes} times without a new checkpoint; log.txt in its folder says more."
            await self._write(lease, failure({"code": "process_crashed", "message": message}))
            return
        again = NewEvent(message=f"{reason}; trying again from the last checkpoint", level="warn")
        await self._write(lease, Change(status=JobStatus.QUEUED, events=[again], result={"crashes": crashes}))


def tidy(folder: Path, job: Job) -> None:
    """Take away what a finished job's folder need not keep: its data and its checkpoints. The logs stay."""
    if is_final(job.status):
        for part in (folder / "data", *folder.glob("attempts/*/checkpoints")):
            shutil.rmtree(part, ignore_errors=True)
        for part in folder.glob("attempts/*/work"):
            shutil.rmtree(part, ignore_errors=True)

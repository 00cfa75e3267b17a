"""Claims jobs, runs their children, turns their events into rows. It knows leases and processes; no torch, no HTTP.

Loops side by side: one validates new fine-tuning jobs (so that a bad file is told at once, however long the queue),
one trains, one exports, one evaluates, which takes no device. Whoever loses a lease, by takeover or cancellation, kills
its child and writes nothing.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from brie_core.durable import is_disk_full
from brie_core.errors import BrieError, DatabaseUnavailable, InsufficientStorage, LeaseLost, NotFound
from brie_core.settings import Settings
from brie_core.store.job_store import Change, JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus, Lease, NewEvent, is_final
from brie_core.store.workers import WorkerStore
from brie_trainer.child import Child
from brie_trainer.device_lock import DeviceLock, device_name
from brie_trainer.event_log import read_lines
from brie_trainer.fine_tune import FineTuneKind
from brie_trainer.kind import Kind, failure
from brie_trainer.patience import Patience, unbroken
from brie_trainer.presence import Presence, this_worker

logger = logging.getLogger("brie.worker")
_MAX_CRASHES = 3
_POLL_SECONDS = 0.3
LEASE_SECONDS = 15.0
"""How long a job stays with a worker that does not renew its lease."""
_LOOKING_SECONDS = 1.0
"""Less than which a device may be taken only by a worker that looks for a job."""
_NOTICED_SECONDS = 0.3
"""How long a cancellation or a pause may go unnoticed."""
_PAUSE_SECONDS = 120.0
"""What a process has to stop behind a checkpoint; one that hangs is then ended, and resumed from an older one."""
_NAMES = {JobKind.FINE_TUNE: "Fine-tuning job", JobKind.EXPORT: "Export", JobKind.EVALUATION: "Evaluation"}
_NO_ROOM = (DatabaseUnavailable, InsufficientStorage)
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

    def __init__(  # the stores and kinds that a process is made of
        self,
        settings: Settings,
        jobs: JobStore,
        fine_tune: FineTuneKind,
        others: Mapping[JobKind, Kind],
        register: WorkerStore,
    ) -> None:
        self._home = settings.home
        self._jobs = jobs
        self._fine_tune = fine_tune
        self._others = others
        self._kinds: dict[JobKind, Kind] = {JobKind.FINE_TUNE: fine_tune, **others}
        itself = this_worker(device_name(settings.device), self._kinds)
        self._owner = itself.id
        self._presence = Presence(itself, register)
        self._device = DeviceLock(settings.home, itself.host, itself.device)
        self._patience = Patience(LEASE_SECONDS)

    async def run(self) -> None:
        """Work until cancelled; a job in hand is then given back for the next worker to go on with."""
        for folder in (self._home / "jobs").glob("*/"):
            with suppress(NotFound):
                tidy(folder, await self._job(folder.name))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._presence.last())
            group.create_task(self._serve(JobKind.FINE_TUNE, (JobStatus.VALIDATING_FILES,)))
            group.create_task(self._serve_device())
            for kind in self._others:
                group.create_task(self._serve(kind, _RUNNABLE))

    async def _serve(self, kind: JobKind, statuses: Iterable[JobStatus]) -> None:
        while True:
            claimed = await self._claim(kind, statuses)
            if claimed is None:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                await self._hold(*claimed)

    async def _serve_device(self) -> None:
        """Run fine-tuning jobs, each with the device to itself; one that is in use is told, and no job taken."""
        used_since: float | None = None
        while True:
            claimed = None
            if self._device.take():
                used_since = None
                claimed = await self._claim(JobKind.FINE_TUNE, _RUNNABLE)
            elif used_since is None:
                used_since = time.monotonic()
            is_used = used_since is not None and time.monotonic() - used_since > _LOOKING_SECONDS
            worker = self._presence.worker
            await self._presence.wait_for(f"{worker.device} on {worker.host} is in use" if is_used else None)
            try:
                if claimed is not None:
                    await self._hold(*claimed)
            finally:
                self._device.give_back()
            if claimed is None:
                await asyncio.sleep(_POLL_SECONDS)

    async def _claim(self, kind: JobKind, statuses: Iterable[JobStatus]) -> tuple[Lease, Job] | None:
        """After the database was away, no job is taken over before its worker had the time to renew its lease."""
        try:
            takes_over = self._patience.is_settled
            return await unbroken(self._jobs.claim(self._owner, kind, statuses, LEASE_SECONDS, takes_over=takes_over))
        except DatabaseUnavailable as error:
            self._patience.missed(error)
        except DBAPIError:
            logger.exception("no job could be claimed")
        return None

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
        except (DatabaseUnavailable, DBAPIError):
            logger.warning("the lease of %s runs out by itself", lease.job_id)

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
            await asyncio.sleep(min(_NOTICED_SECONDS, LEASE_SECONDS / 3))
            try:
                status = await unbroken(self._jobs.renew(held.lease, LEASE_SECONDS))
                held.pausing = status is JobStatus.PAUSING
            except LeaseLost:
                held.lost = True
                raise
            except DatabaseUnavailable as error:
                self._patience.missed(error)
            except DBAPIError:
                logger.exception("the lease of %s could not be renewed", held.lease.job_id)

    async def _write(self, lease: Lease, change: Change) -> Job:
        """Write, and wait for the database if it does not answer, or has no room."""
        return await self._patience.answered(lambda: self._jobs.write(lease, change), _NO_ROOM)

    async def _job(self, job_id: str) -> Job:
        return await self._patience.answered(lambda: self._jobs.get(job_id))

    async def _validate(self, held: Held, job: Job) -> None:
        await self._patience.answered(lambda: self._fine_tune.keep_data(job))
        change = await self._fine_tune.validate(job)
        await self._write(held.lease, change)

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
        await self._patience.answered(lambda: kind.prepare(job, folder))
        job = await self._begin(lease, job)
        handles = self._device.handles if job.kind is JobKind.FINE_TUNE else ()
        child = await Child.start(kind.module, folder, kind.environment, handles)
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
        return await self._write(
            lease,
            Change(
                status=JobStatus.RUNNING if job.status is JobStatus.QUEUED else None,
                attempt=job.attempt + 1,
                events_offset=0,
                events=[NewEvent(message=f"{_NAMES[job.kind]} {word}")],
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
        return await self._job(job.id) if held.pausing else job

    async def _drain(self, lease: Lease, job: Job, folder: Path) -> Job:
        """Turn every whole line not yet seen into rows, each line in one transaction with its offset."""
        for line in read_lines(folder / "events.jsonl", job.events_offset):
            change = await self._patience.answered(partial(self._kinds[job.kind].change, job, folder, line.event))
            job = await self._write(lease, change.at(line.end))
            if is_final(job.status):
                break
        return job

    async def _paused(self, lease: Lease) -> None:
        await self._write(lease, Change(status=JobStatus.PAUSED, events=[NewEvent(message="The job is paused")]))

    async def _say_goodbye(self, lease: Lease) -> None:
        """The worker is stopping. The job stays as it is: what its child told last is read by whoever goes on."""
        stopping = NewEvent(message="The worker is stopping; the job goes on when one is back", level="warn")
        with suppress(LeaseLost, DatabaseUnavailable, DBAPIError):
            await self._jobs.write(lease, Change(events=[stopping]))

    async def _crashed(self, lease: Lease, job: Job, child: Child) -> None:
        """The child ended without a last word: try again from where it was, a few times without getting on."""
        crashes = job.result.get("crashes", 0) + 1
        reason = f"The job's process ended with status {child.status}"
        reason += " (killed: out of memory?)" if child.status == -9 else ""
        if crashes >= _MAX_CRASHES:
            standing = " without a new checkpoint" if job.kind is JobKind.FINE_TUNE else ""
            message = f"{reason}, {crashes} times{standing}; log.txt in its folder says more."
            await self._write(lease, failure({"code": "process_crashed", "message": message}))
            return
        onwards = " from the last checkpoint" if job.kind is JobKind.FINE_TUNE else ""
        again = NewEvent(message=f"{reason}; trying again{onwards}", level="warn")
        await self._write(lease, Change(status=JobStatus.QUEUED, events=[again], result={"crashes": crashes}))


def tidy(folder: Path, job: Job) -> None:
    """Take away what a finished job's folder need not keep: its data and its checkpoints. The logs stay.

    A failed evaluation keeps its data, to be resumed though the files may have been deleted elsewhere.
    """
    if is_final(job.status) and (job.kind, job.status) != (JobKind.EVALUATION, JobStatus.FAILED):
        for part in (folder / "data", *folder.glob("attempts/*/checkpoints")):
            shutil.rmtree(part, ignore_errors=True)
        for part in folder.glob("attempts/*/work"):
            shutil.rmtree(part, ignore_errors=True)

"""The life of a fine-tuning job around its process, with a process that follows a script."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from brie_core.errors import DatabaseUnavailable, NotFound
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus, Lease
from brie_core.store.schema import open_database
from brie_core.store.workers import WorkerStore
from brie_core.weights.base_model import BaseModel
from brie_trainer import worker as worker_module
from brie_trainer.device_lock import DeviceLock
from brie_trainer.export import ExportKind
from brie_trainer.fine_tune import FineTuneKind
from brie_trainer.worker import Worker
from postgres_cluster import PostgresCluster
from scripted_training import write_script
from tcp_proxy import Wire
from trainer_jobs import spec_of

Moves = list[tuple[Any, ...]]
FINE_TUNE = JobKind.FINE_TUNE


class Scripted(FineTuneKind):
    """Fine-tuning whose attempts follow scripts; the last is followed again and again."""

    module = "scripted_training"
    scripts: list[Moves]
    adapter: Path

    async def prepare(self, job: Job, folder: Path) -> None:
        """No data and no base: only the script."""
        write_script(folder, self.scripts[min(job.attempt, len(self.scripts) - 1)], self.adapter)


class Place:
    """A working worker and its stores."""

    def __init__(self, database: Database, base: BaseModel, adapter: Path, home: Path, device: str = "auto") -> None:
        settings, files = Settings(home=home, device=device), FileStore(database, home)
        self.home = home
        self.jobs, self.adapters = JobStore(database), AdapterStore(home)
        self.kind = Scripted(settings, base, files, self.adapters)
        self.kind.adapter = adapter
        self.settings = settings
        self.export = {JobKind.EXPORT: ExportKind(settings, base, self.adapters, self.jobs)}
        self.workers = WorkerStore(database)
        self.worker = Worker(settings, self.jobs, self.kind, self.export, self.workers)

    async def job(self, *scripts: Moves) -> Job:
        self.kind.scripts = list(scripts)
        return await self.jobs.create(FINE_TUNE, spec_of(), JobStatus.QUEUED, [])

    async def until(self, job: Job, is_so: Callable[[Job], bool], seconds: float = 60) -> Job:
        async with asyncio.timeout(seconds):
            while not is_so(job):
                await asyncio.sleep(0.05)
                job = await self.jobs.get(job.id)
        return job

    async def told(self, job: Job) -> list[str]:
        return [event.message for event in reversed(await self.jobs.events(job.id, limit=1000))]


def is_(*statuses: JobStatus) -> Callable[[Job], bool]:
    return lambda job: job.status in statuses


ENDED = is_(JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


def has_checkpoint(job: Job) -> bool:
    return "best_step" in job.result


@pytest.fixture
async def place(
    database: Database, tiny_base: BaseModel, tiny_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    made = Place(database, tiny_base, tiny_lora, tmp_path)
    working = asyncio.create_task(made.worker.run())
    yield made
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_a_job_that_gets_on_may_crash_as_often_as_it_likes(place: Place) -> None:
    crashing: list[Moves] = [[("checkpoint", step), ("die",)] for step in range(1, 6)]
    job = await place.until(await place.job(*crashing, [("result", 5)]), ENDED)
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.attempt == 6
    assert sum("trying again" in message for message in await place.told(job)) == 5


async def test_three_crashes_without_a_new_checkpoint_fail_it(place: Place) -> None:
    job = await place.until(await place.job([("die",)], [("checkpoint", 1), ("die",)], [("die",)]), ENDED)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == (JobStatus.FAILED, "process_crashed", 4)
    assert "3 times without a new checkpoint" in job.error["message"]


async def test_a_paused_job_has_stopped_and_goes_on_when_it_is_resumed(place: Place) -> None:
    job = await place.job([("checkpoint", 1), ("wait", 1)], [("result", 1)])
    await place.until(job, has_checkpoint)  # by now its process heeds signals
    await place.jobs.pause(job.id, FINE_TUNE)
    job = await place.until(job, is_(JobStatus.PAUSED))
    assert (await place.told(job))[-2:] == ["Stopped behind step 1", "The job is paused"]
    await place.jobs.resume(job.id, FINE_TUNE)
    job = await place.until(job, ENDED)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)


async def test_a_process_that_does_not_stop_is_ended_and_the_job_is_paused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_SECONDS", 1.0)
    job = await place.job([("checkpoint", 1), ("hang",)], [("result", 1)])
    await place.until(job, has_checkpoint)
    await place.jobs.pause(job.id, FINE_TUNE)
    job = await place.until(job, is_(JobStatus.PAUSED), seconds=10)
    await place.jobs.resume(job.id, FINE_TUNE)
    assert (await place.until(job, ENDED)).status is JobStatus.SUCCEEDED


async def test_a_run_that_ends_while_it_is_to_pause_has_succeeded(place: Place) -> None:
    job = await place.job([("checkpoint", 1), ("wait", 1), ("result", 1)])
    await place.until(job, has_checkpoint)
    await place.jobs.pause(job.id, FINE_TUNE)
    assert (await place.until(job, is_(JobStatus.PAUSED, JobStatus.SUCCEEDED))).status is JobStatus.SUCCEEDED


async def test_a_cancelled_process_is_not_asked(place: Place) -> None:
    job = await place.job([("checkpoint", 1), ("hang",)])
    attempt = place.home / "jobs" / job.id / "attempts" / "1"
    await place.until(job, lambda _: (attempt / "events.jsonl").is_file())
    began = time.monotonic()
    await place.jobs.cancel(job.id, FINE_TUNE)
    await place.until(job, lambda _: not (attempt / "checkpoints").exists())  # tidied once the process is gone
    assert time.monotonic() - began < 3


async def test_a_cancellation_that_a_write_notices_first_ends_the_process_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_NOTICED_SECONDS", 60)  # the lease is then renewed every five seconds
    job = await place.job([("checkpoint", 1), ("rest", 2), ("checkpoint", 2), ("hang",)])
    attempt = place.home / "jobs" / job.id / "attempts" / "1"
    await place.until(job, lambda _: (attempt / "events.jsonl").is_file())
    await place.jobs.cancel(job.id, FINE_TUNE)
    await place.until(job, lambda _: not (attempt / "checkpoints").exists())
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if str(attempt) in line]


async def test_a_disk_too_full_for_a_checkpoint_is_told_and_for_the_result_is_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = place.adapters.publish(place.kind.adapter, place.kind._base, {})

    def full(*_args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place.adapters, "publish", full)
    job = await place.until(await place.job([("checkpoint", 1), ("result", 1)]), ENDED)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.FAILED, "insufficient_storage")
    assert any("Checkpoint at step 1 is not served" in message for message in await place.told(job))
    place.adapters.verify(AdapterStore(place.home).open(older.digest), place.kind._base)
    assert [each.name for each in (place.home / "adapters").iterdir()] == [older.digest]


async def test_a_job_deleted_before_the_worker_has_let_go_of_it_does_not_end_the_worker(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = place.jobs.release

    async def deleted_meanwhile(lease: Lease) -> None:
        monkeypatch.setattr(place.jobs, "release", release)
        await place.jobs.delete(lease.job_id, FINE_TUNE)
        await release(lease)

    monkeypatch.setattr(place.jobs, "release", deleted_meanwhile)
    gone = await place.job([("checkpoint", 1), ("result", 1)])
    with pytest.raises(NotFound):
        await place.until(gone, lambda _: False)
    assert (await place.until(await place.job([("checkpoint", 1), ("result", 1)]), ENDED)).status is JobStatus.SUCCEEDED
    assert not (place.home / "jobs" / gone.id).exists()


async def test_a_worker_whose_device_is_in_use_says_so_and_takes_no_job(
    database: Database, tiny_base: BaseModel, tiny_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    place = Place(database, tiny_base, tiny_lora, tmp_path, device="cuda:1")
    used = DeviceLock(tmp_path, socket.gethostname()[:64], "cuda:1")
    assert used.take()
    working = asyncio.create_task(place.worker.run())
    try:
        job = await place.job([("checkpoint", 1), ("result", 1)])
        async with asyncio.timeout(20):
            while not any(seen.worker.waits_for for seen in await place.workers.list()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await place.jobs.get(job.id)).status is JobStatus.QUEUED
        used.give_back()
        assert (await place.until(job, ENDED)).status is JobStatus.SUCCEEDED
        assert [(seen.worker.device, seen.worker.waits_for) for seen in await place.workers.list()] == [
            ("cuda:1", None)
        ]
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert await place.workers.list() == []


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines and leases as short as a test: what they are to each other stays."""
    monkeypatch.setattr("brie_core.store.database.COMMAND_SECONDS", 1.0)
    monkeypatch.setattr(worker_module, "LEASE_SECONDS", 4.0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", ["restarted", "cut", "silent"])
async def test_training_goes_on_while_the_database_is_away_and_nobody_takes_it_over(  # noqa: PLR0917
    how: str,
    postgres: PostgresCluster,
    tiny_base: BaseModel,
    tiny_lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    wire = Wire(postgres.port)
    url = postgres.url(postgres.new_database("brie_1"), wire.port)
    settings = Settings(home=tmp_path, database_url=url)
    databases = [await open_database(settings) for _ in range(2)]
    place, other = (Place(database, tiny_base, tiny_lora, tmp_path) for database in databases)
    working = [asyncio.create_task(each.worker.run()) for each in (place, other)]
    other.kind.scripts = [[("checkpoint", 1), ("rest", 10), ("checkpoint", 2), ("result", 2)]]
    try:
        job = await place.job(*other.kind.scripts)
        await place.until(job, has_checkpoint)
        if how == "restarted":
            postgres.stop()
        else:
            wire.be("cut" if how == "cut" else "silent")
        await asyncio.sleep(6)  # longer than the lease
        postgres.start() if how == "restarted" else wire.be("through")
        job = await place.until(await _when_back(place, job), ENDED, seconds=200)
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), (job.error, await place.told(job))
        told = await place.told(job)
        assert [message for message in told if "Checkpoint created" in message] == [
            "Checkpoint created at step 1",
            "Checkpoint created at step 2",
        ]
        assert [event.seq for event in await place.jobs.events_since(job.id, 0, limit=99)] == [*range(1, len(told) + 1)]
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for database in databases:
            await database.aclose()
        wire.close()


async def _when_back(place: Place, job: Job) -> Job:
    async with asyncio.timeout(60):
        while True:
            try:
                return await place.jobs.get(job.id)
            except DatabaseUnavailable:
                await asyncio.sleep(0.1)

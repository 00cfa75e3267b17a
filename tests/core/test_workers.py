"""Workers as rows: alive as long as they are seen, with what their leases hold."""

import pytest

from brie_core.store.database import Database
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import JobKind, JobStatus
from brie_core.store.workers import ALIVE_SECONDS, Worker, WorkerStore
from clocks import Clock


def worker(name: str, **more: str) -> Worker:
    return Worker(id=name, host="h", pid=1, device="cpu", version="1", kinds=("fine_tune",), started_at=1, **more)


async def test_a_worker_is_seen_with_its_jobs_until_it_leaves(database: Database) -> None:
    clock = Clock()
    store, jobs = WorkerStore(database, clock), JobStore(database, clock)
    await store.beat(worker("a"))
    await store.beat(worker("b"))
    await store.beat(worker("b", waits_for="cuda:0 on h is in use"))
    job = await jobs.create(JobKind.FINE_TUNE, {}, JobStatus.QUEUED, [])
    await jobs.claim("a", JobKind.FINE_TUNE, (JobStatus.QUEUED,), 10)
    first, second = await store.list()
    assert (first.worker.id, first.is_alive, first.jobs, list(first.worker.kinds)) == (
        "a",
        True,
        (job.id,),
        ["fine_tune"],
    )
    assert (second.jobs, second.worker.waits_for) == ((), "cuda:0 on h is in use")
    clock.now += ALIVE_SECONDS
    await store.beat(worker("b"))
    assert [(seen.is_alive, seen.jobs) for seen in await store.list()] == [(False, ()), (True, ())]
    await store.leave("b")
    assert [seen.worker.id for seen in await store.list()] == ["a"]


async def test_it_is_alive_by_the_databases_own_clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = WorkerStore(database)
    await store.beat(worker("a"))
    assert [seen.is_alive for seen in await store.list()] == [True]
    if database.is_shared:
        monkeypatch.setattr("time.time", lambda: 0.0)
        assert [seen.is_alive for seen in await store.list()] == [True]

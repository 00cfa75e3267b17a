"""A request that is sent again finds the job that it made, and no other."""

import asyncio

import pytest

from brie_core.errors import InvalidRequest
from brie_core.store.database import Database
from brie_core.store.job_requests import KEY_SECONDS, RETRY_SECONDS, JobRequest
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus, NewEvent
from clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> JobStore:
    return JobStore(database, clock)


async def asked(store: JobStore, body: str = "b", key: str | None = None, *, again: bool = False) -> Job:
    request = JobRequest(body=body, key=key, is_repeated=again)
    first = [NewEvent(message="Created fine-tuning job")]
    return await store.create(JobKind.FINE_TUNE, {}, JobStatus.QUEUED, first, request)


async def test_one_key_is_one_job_for_a_day(store: JobStore, clock: Clock) -> None:
    made = await asked(store, key="k")
    clock.now += KEY_SECONDS - 1
    assert (await asked(store, key="k")).id == made.id
    assert (await asked(store, key="k2")).id != made.id
    assert len(await store.events(made.id, limit=10)) == 1
    clock.now += 2
    assert (await asked(store, key="k")).id != made.id


async def test_a_key_stands_for_one_body(store: JobStore) -> None:
    await asked(store, key="k")
    with pytest.raises(InvalidRequest) as refused:
        await asked(store, body="other", key="k")
    assert (refused.value.param, refused.value.code) == ("Idempotency-Key", "idempotency_key_reused")


async def test_of_many_that_ask_at_once_one_makes_the_job(store: JobStore) -> None:
    made = await asyncio.gather(*(asked(store, key="k") for _ in range(8)))
    assert len({job.id for job in made}) == 1
    assert len(await store.list(JobKind.FINE_TUNE, limit=10)) == 1


async def test_a_retry_without_a_key_finds_its_job_for_a_while(store: JobStore, clock: Clock) -> None:
    made = await asked(store)
    assert (await asked(store)).id != made.id  # asked for twice on purpose
    assert (await asked(store, body="other", again=True)).id != made.id
    newest = await asked(store)
    assert (await asked(store, again=True)).id == newest.id
    clock.now += RETRY_SECONDS + 1
    assert (await asked(store, again=True)).id != newest.id


async def test_a_retry_without_a_key_does_not_find_what_a_key_made(store: JobStore) -> None:
    keyed = await asked(store, key="k")
    assert (await asked(store, again=True)).id != keyed.id

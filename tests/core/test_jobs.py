"""The job store: moves, leases, fences, events."""

import asyncio
from collections.abc import Sequence

import pytest

from brie_core.errors import Conflict, InvalidRequest, LeaseLost, NotFound
from brie_core.store.database import Database
from brie_core.store.job_store import Change, JobStore, NewCheckpoint
from brie_core.store.jobs import MOVES, Event, Job, JobKind, JobStatus, NewEvent, is_final, may_move
from clocks import Clock

QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING
FINE_TUNE = JobKind.FINE_TUNE


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def store(database: Database, clock: Clock) -> JobStore:
    return JobStore(database, clock)


async def queued(store: JobStore, **spec: object) -> Job:
    return await store.create(JobKind.FINE_TUNE, spec, QUEUED, [NewEvent(message="Created fine-tuning job")])


async def all_events(store: JobStore, job_id: str) -> Sequence[Event]:
    return list(reversed(await store.events(job_id, limit=1000)))


def test_every_status_has_moves_and_final_ones_have_none() -> None:
    assert set(MOVES) == set(JobStatus)
    assert {s for s in JobStatus if is_final(s)} == {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    assert not may_move(JobStatus.SUCCEEDED, JobStatus.RUNNING)


async def test_a_created_job_is_read_back_whole(store: JobStore) -> None:
    job = await queued(store, model="m", metadata={"a": "b"})
    assert await store.get(job.id) == job
    assert job.spec == {"model": "m", "metadata": {"a": "b"}}
    assert job.created_at == 1000


async def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    with pytest.raises(NotFound):
        await store.get("ftjob-nope")


async def test_a_job_of_another_kind_is_not_found(store: JobStore) -> None:
    job = await queued(store)
    with pytest.raises(NotFound):
        await store.get(job.id, JobKind.EXPORT)


async def test_the_oldest_job_is_claimed_first_and_only_once(store: JobStore) -> None:
    first, second = await queued(store), await queued(store)
    ids = sorted([first.id, second.id])
    claims = [await store.claim("w", FINE_TUNE, [QUEUED], 10) for _ in range(3)]
    assert [claim and claim[1].id for claim in claims] == [ids[0], ids[1], None]


async def test_of_many_workers_exactly_one_gets_the_job(store: JobStore) -> None:
    await queued(store)
    claims = await asyncio.gather(*(store.claim(f"w{i}", FINE_TUNE, [QUEUED], 10) for i in range(12)))
    assert sum(claim is not None for claim in claims) == 1


async def test_an_expired_lease_is_taken_over_and_its_former_owner_writes_nothing(
    store: JobStore, clock: Clock
) -> None:
    job = await queued(store)
    claimed = await store.claim("old", FINE_TUNE, [QUEUED, RUNNING], 10)
    assert claimed
    await store.write(claimed[0], Change(status=RUNNING, attempt=1))
    clock.now += 11
    taken = await store.claim("new", FINE_TUNE, [QUEUED, RUNNING], 10)
    assert taken
    with pytest.raises(LeaseLost):
        await store.write(claimed[0], Change(status=JobStatus.SUCCEEDED, events=[NewEvent(message="ghost")]))
    with pytest.raises(LeaseLost):
        await store.renew(claimed[0], 10)
    assert (await store.get(job.id)).status is RUNNING
    assert "ghost" not in [event.message for event in await all_events(store, job.id)]


async def test_a_renewed_lease_is_not_taken(store: JobStore, clock: Clock) -> None:
    await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    clock.now += 9
    await store.renew(claimed[0], 10)
    clock.now += 9
    assert await store.claim("other", FINE_TUNE, [QUEUED], 10) is None


async def test_a_released_job_can_be_claimed_at_once(store: JobStore) -> None:
    await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    await store.release(claimed[0])
    assert await store.claim("other", FINE_TUNE, [QUEUED], 10) is not None


async def test_cancelling_fences_the_worker_off(store: JobStore) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    assert (await store.cancel(job.id, JobKind.FINE_TUNE)).status is JobStatus.CANCELLED
    with pytest.raises(LeaseLost):
        await store.renew(claimed[0], 10)


async def test_a_finished_job_stays_finished(store: JobStore) -> None:
    job = await queued(store)
    await store.cancel(job.id, JobKind.FINE_TUNE)
    with pytest.raises(InvalidRequest):
        await store.cancel(job.id, JobKind.FINE_TUNE)
    assert (await store.get(job.id)).status is JobStatus.CANCELLED
    assert await store.claim("w", FINE_TUNE, list(JobStatus), 10) is None


async def test_a_failed_job_is_resumed_without_its_error_and_any_other_is_not(store: JobStore, clock: Clock) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    with pytest.raises(Conflict, match="queued: only one that has failed") as early:
        await store.resume_failed(job.id, FINE_TUNE)
    assert early.value.code == "job_not_failed"
    error, kept = {"code": "x", "message": "y"}, {"progress": 0.5, "crashes": 2, "message": "so far"}
    await store.write(claimed[0], Change(status=JobStatus.FAILED, attempt=3, events_offset=7, error=error, result=kept))
    with pytest.raises(NotFound):
        await store.resume_failed(job.id, JobKind.EVALUATION)
    resumed = await store.resume_failed(job.id, FINE_TUNE)
    assert (resumed.status, resumed.error, resumed.finished_at) == (QUEUED, None, None)
    assert (resumed.attempt, resumed.events_offset) == (3, 7)  # what was told is not told again
    assert resumed.result == {"progress": 0.5, "crashes": 0, "message": None}
    with pytest.raises(LeaseLost):
        await store.renew(claimed[0], 10)
    again = await store.claim("another", FINE_TUNE, [QUEUED], 10)
    assert again is not None
    await store.write(again[0], Change(status=JobStatus.RUNNING))
    for status in (JobStatus.RUNNING, JobStatus.SUCCEEDED):
        if status is JobStatus.SUCCEEDED:
            await store.write(again[0], Change(status=status))
        with pytest.raises(Conflict, match=status):
            await store.resume_failed(job.id, FINE_TUNE)


async def test_a_forbidden_move_changes_nothing(store: JobStore) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    with pytest.raises(ValueError, match="cannot become"):
        await store.write(claimed[0], Change(status=JobStatus.SUCCEEDED, events=[NewEvent(message="no")]))
    assert [event.message for event in await all_events(store, job.id)] == ["Created fine-tuning job"]


async def test_events_are_numbered_without_gaps_whoever_writes_them(store: JobStore) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    changes = (Change(events=[NewEvent(message=f"{i}"), NewEvent(message=f"{i}b")]) for i in range(8))
    await asyncio.gather(*(store.write(claimed[0], change) for change in changes))
    assert [event.seq for event in await all_events(store, job.id)] == list(range(1, 18))


async def test_events_are_paged_newest_first(store: JobStore) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    await store.write(claimed[0], Change(events=[NewEvent(message=str(i)) for i in range(5)]))
    first = await store.events(job.id, limit=4)
    second = await store.events(job.id, limit=4, after=first[-1].id)
    assert [event.message for event in (*first, *second)] == ["4", "3", "2", "1", "0", "Created fine-tuning job"]


async def test_a_checkpoint_written_twice_is_one_row_with_its_name_pointed(store: JobStore) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, [QUEUED], 10)
    assert claimed
    checkpoint = NewCheckpoint(step=5, model="ft:x:ckpt-step-5", version="v", metrics={"step": 5})
    await store.write(claimed[0], Change(checkpoints=[checkpoint]))
    await store.write(claimed[0], Change(checkpoints=[checkpoint]))
    assert [found.step for found in await store.checkpoints(job.id, limit=10)] == [5]


async def test_jobs_are_listed_newest_first_and_by_metadata(store: JobStore) -> None:
    made = [await queued(store, metadata={"n": str(i)}) for i in range(3)]
    newest_first = sorted((job.id for job in made), reverse=True)
    assert [job.id for job in await store.list(JobKind.FINE_TUNE, limit=2)] == newest_first[:2]
    after = await store.list(JobKind.FINE_TUNE, limit=2, after=newest_first[1])
    assert [job.id for job in after] == newest_first[2:]
    assert [job.id for job in await store.list(JobKind.FINE_TUNE, limit=9, metadata={"n": "1"})] == [made[1].id]


async def test_a_waiting_job_is_paused_at_once_and_resumed_where_it_was(store: JobStore) -> None:
    for status in (JobStatus.VALIDATING_FILES, QUEUED):
        job = await store.create(FINE_TUNE, {}, status, [])
        assert (await store.pause(job.id, FINE_TUNE)).status is JobStatus.PAUSED
        assert (await store.resume(job.id, FINE_TUNE)).status is status
        await store.cancel(job.id, FINE_TUNE)


async def test_a_paused_job_is_claimed_by_nobody_who_wants_work(store: JobStore) -> None:
    job = await queued(store)
    await store.pause(job.id, FINE_TUNE)
    assert await store.claim("w", FINE_TUNE, (QUEUED, RUNNING, JobStatus.PAUSING), 10) is None
    await store.resume(job.id, FINE_TUNE)
    assert await store.claim("w", FINE_TUNE, (QUEUED, RUNNING, JobStatus.PAUSING), 10) is not None


async def test_a_running_job_is_asked_and_its_worker_learns_of_it_at_renewal(store: JobStore) -> None:
    job = await queued(store)
    claimed = await store.claim("w", FINE_TUNE, (QUEUED,), 10)
    assert claimed is not None
    lease = claimed[0]
    await store.write(lease, Change(status=RUNNING, attempt=1))
    assert await store.renew(lease, 10) is RUNNING
    assert (await store.pause(job.id, FINE_TUNE)).status is JobStatus.PAUSING
    assert (await store.pause(job.id, FINE_TUNE)).status is JobStatus.PAUSING
    assert await store.renew(lease, 10) is JobStatus.PAUSING
    assert (await store.write(lease, Change(status=JobStatus.PAUSED))).status is JobStatus.PAUSED
    told = [event.message for event in await all_events(store, job.id)]
    assert told[1:] == ["The job is pausing: its worker writes a checkpoint"]


async def test_what_cannot_be_paused_or_resumed_is_refused_by_a_code(store: JobStore) -> None:
    job = await queued(store)
    with pytest.raises(InvalidRequest) as refused:
        await store.resume(job.id, FINE_TUNE)
    assert refused.value.code == "job_not_paused"
    await store.cancel(job.id, FINE_TUNE)
    with pytest.raises(InvalidRequest) as refused:
        await store.pause(job.id, FINE_TUNE)
    assert refused.value.code == "job_not_pausable"


async def test_a_pause_takes_a_waiting_job_out_of_the_hands_that_held_it(store: JobStore) -> None:
    job = await store.create(FINE_TUNE, {}, JobStatus.VALIDATING_FILES, [])
    claimed = await store.claim("w", FINE_TUNE, (JobStatus.VALIDATING_FILES,), 10)
    assert claimed is not None
    await store.pause(job.id, FINE_TUNE)
    with pytest.raises(LeaseLost):
        await store.write(claimed[0], Change(status=QUEUED))


async def test_an_adopted_job_is_paused_behind_its_last_attempt(store: JobStore) -> None:
    job = await store.adopt("ftjob-0123456789", FINE_TUNE, {"model": "m"}, 900, 3)
    assert (job.status, job.attempt, job.created_at, job.events_offset) == (JobStatus.PAUSED, 3, 900, 0)
    with pytest.raises(Conflict):
        await store.adopt("ftjob-0123456789", FINE_TUNE, {"model": "m"}, 900, 3)

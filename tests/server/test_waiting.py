"""Why a job waits, told from the rows."""

from collections.abc import Iterable

import pytest

from brie_core.store.jobs import Job, JobKind, JobStatus
from brie_core.store.workers import SeenWorker, Worker
from brie_server.api.waiting import why_waiting

S = JobStatus


def job(number: int, status: JobStatus) -> Job:
    return Job(
        id=f"ftjob-{number}",
        kind=JobKind.FINE_TUNE,
        status=status,
        spec={},
        result={},
        error=None,
        created_at=100,
        finished_at=None,
        attempt=0,
        events_offset=0,
    )


def worker(
    held: Iterable[int] = (), *, device: str = "cpu", waits_for: str | None = None, is_alive: bool = True
) -> SeenWorker:
    itself = Worker(
        id="h:1", host="h", pid=1, device=device, version="1", kinds=["fine_tune"], started_at=1, waits_for=waits_for
    )
    return SeenWorker(worker=itself, seen_at=100, is_alive=is_alive, jobs=[f"ftjob-{number}" for number in held])


ACTIVE = [job(1, S.RUNNING), job(2, S.PAUSED), job(3, S.QUEUED), job(4, S.VALIDATING_FILES), job(5, S.QUEUED)]
USED = "cuda:0 on h is in use"


@pytest.mark.parametrize(
    ("number", "held", "told"),
    [
        (1, {1}, None),
        (1, set(), "None of 1 running workers has taken it yet"),
        (2, {1}, None),
        (3, {1}, "The worker is training ftjob-1"),
        (3, {3}, None),
        (3, set(), "None of 1 running workers has taken it yet"),
        (4, {1}, "None of 1 running workers has taken it yet"),
        (4, {4}, None),
        (5, {1}, "The worker is training ftjob-1; 1 more is before this one"),
        (5, {1, 3}, "The worker is training ftjob-1, ftjob-3"),
        (5, {4}, "None of 1 running workers has taken it yet"),
    ],
)
def test_what_is_before_a_job_is_told(number: int, held: set[int], told: str | None) -> None:
    why = why_waiting(ACTIVE[number - 1], ACTIVE, {f"ftjob-{each}" for each in held}, [worker(held)], now=200.0)
    assert why == told


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        ([], "No worker is running: start one with `brie worker`"),
        ([worker(is_alive=False)], "No worker is running: start one with `brie worker`"),
        ([worker([1], device="cuda:1"), worker(waits_for=USED)], f"training ftjob-1 on cuda:1 of h; {USED}"),
        ([worker([1], device="cuda:0"), worker([3])], "The 2 workers are training ftjob-1 on cuda:0 of h, ftjob-3"),
    ],
)
def test_who_works_and_what_with_is_told(workers: list[SeenWorker], told: str) -> None:
    held = {job_id for seen in workers for job_id in seen.jobs}
    assert told in (why_waiting(ACTIVE[4], ACTIVE, held, workers, now=102.0) or "")


def test_a_device_that_others_use_is_told_though_nobody_trains_for_brie() -> None:
    assert why_waiting(ACTIVE[2], ACTIVE[2:], (), [worker(waits_for=USED)], now=102.0) == USED


def test_a_new_job_is_not_told_that_nobody_took_it() -> None:
    assert why_waiting(ACTIVE[2], ACTIVE, (), [worker()], now=102.0) is None
    assert why_waiting(job(9, S.SUCCEEDED), ACTIVE, (), [worker()], now=200.0) is None

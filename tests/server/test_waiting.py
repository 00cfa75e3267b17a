"""Why a job waits, told from the rows."""

import pytest

from brie_core.store.jobs import Job, JobKind, JobStatus
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


ACTIVE = [job(1, S.RUNNING), job(2, S.PAUSED), job(3, S.QUEUED), job(4, S.VALIDATING_FILES), job(5, S.QUEUED)]


@pytest.mark.parametrize(
    ("number", "held", "told"),
    [
        (1, {1}, None),
        (1, set(), "No worker has taken it yet"),
        (2, {1}, None),
        (3, {1}, "The worker is training ftjob-1"),
        (3, {3}, None),
        (3, set(), "No worker has taken it yet"),
        (4, {1}, "No worker has taken it yet"),
        (4, {4}, None),
        (5, {1}, "The worker is training ftjob-1; 1 more is before this one"),
        (5, {1, 3}, "The worker is training ftjob-1, ftjob-3"),
        (5, {4}, "No worker has taken it yet"),
    ],
)
def test_what_is_before_a_job_is_told(number: int, held: set[int], told: str | None) -> None:
    why = why_waiting(ACTIVE[number - 1], ACTIVE, {f"ftjob-{each}" for each in held}, now=200.0)
    assert why is None if told is None else why is not None and why.startswith(told)


def test_a_new_job_is_not_told_that_nobody_works() -> None:
    assert why_waiting(ACTIVE[2], ACTIVE, (), now=102.0) is None
    assert why_waiting(job(9, S.SUCCEEDED), ACTIVE, (), now=200.0) is None

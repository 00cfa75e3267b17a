"""Which evaluations are there of an adapter version, and what they say of it. It knows rows, and no report."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus

_PAGE = 100


async def finished_evaluations(jobs: JobStore, version: str) -> AsyncIterator[Job]:
    """Those that succeeded and had exactly this version among their candidates, newest first."""
    after = None
    while page := await jobs.list(JobKind.EVALUATION, limit=_PAGE, after=after):
        for job in page:
            if job.status is JobStatus.SUCCEEDED and candidate_of(job, version) is not None:
                yield job
        after = page[-1].id


async def newest_evaluation(jobs: JobStore, version: str) -> Job | None:
    """The last that succeeded."""
    return await anext(finished_evaluations(jobs, version), None)


def candidate_of(job: Job, version: str) -> str | None:
    """What an evaluation's report calls this version: the first candidate that is it."""
    return next((each["name"] for each in job.spec["candidates"] if each["version"] == version), None)


def same_bounds(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two gates ask for the same."""
    return _plain(one) == _plain(other)


def has_passed(job: Job, version: str) -> bool:
    """Whether all bounds on this version, and all on the report as a whole, were kept to."""
    names = {each["name"] for each in job.spec["candidates"] if each["version"] == version}
    verdicts = (job.result.get("gate") or {}).get("verdicts", [])
    own = [verdict["passed"] for verdict in verdicts if verdict["candidate"] in (None, *names)]
    return bool(own) and all(own)


def _plain(bounds: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    return {path: (bound.get("min"), bound.get("max")) for path, bound in bounds.items()}

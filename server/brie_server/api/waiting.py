"""Why a job does not go on: what is trained before it, or that nobody works. Pure; it knows no store."""

from collections.abc import Iterable, Sequence

from brie_core.store.jobs import Job, JobStatus

_RUNNABLE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING})
_PATIENCE_SECONDS = 5
"""A worker looks for new jobs three times a second."""


def why_waiting(job: Job, active: Sequence[Job], in_hand: Iterable[str], now: float) -> str | None:
    """A sentence for a job that waits, None for one that does not; `active` are all unfinished jobs, oldest first."""
    held = frozenset(in_hand)
    if job.id in held or job.status not in {*_RUNNABLE, JobStatus.VALIDATING_FILES}:
        return None
    if job.status is JobStatus.VALIDATING_FILES:
        return _behind([each for each in active if each.status is job.status and each.id in held], 0, job, now)
    training = [each for each in active if each.status in _RUNNABLE and each.id in held]
    before = sum(each.status in _RUNNABLE and each.id < job.id and each.id not in held for each in active)
    return _behind(training, before, job, now)


def _behind(busy_with: Sequence[Job], before: int, job: Job, now: float) -> str | None:
    if busy_with:
        doing = "validating" if job.status is JobStatus.VALIDATING_FILES else "training"
        waiting = f"; {before} more {'is' if before == 1 else 'are'} before this one" if before else ""
        return f"The worker is {doing} {', '.join(each.id for each in busy_with)}{waiting}"
    is_new = now - job.created_at < _PATIENCE_SECONDS
    return None if is_new else "No worker has taken it yet: is one running (`brie worker`)?"

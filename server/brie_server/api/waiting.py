"""Why a job does not go on: what is trained before it, a device in use, or nobody works. Pure; it knows no store."""

from collections.abc import Iterable, Sequence

from brie_core.store.jobs import Job, JobKind, JobStatus
from brie_core.store.workers import SeenWorker

_RUNNABLE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING})
_PATIENCE_SECONDS = 5
"""A worker looks for new jobs three times a second."""


def why_waiting(
    job: Job, active: Sequence[Job], in_hand: Iterable[str], workers: Sequence[SeenWorker], now: float
) -> str | None:
    """A sentence for a job that waits, None for one that does not; `active` are all unfinished jobs, oldest first."""
    held = frozenset(in_hand)
    if job.id in held or job.status not in {*_RUNNABLE, JobStatus.VALIDATING_FILES}:
        return None
    alive = [seen for seen in workers if seen.is_alive and JobKind.FINE_TUNE in seen.worker.kinds]
    if not alive:
        return "No worker is running: start one with `brie worker`"
    is_validating = job.status is JobStatus.VALIDATING_FILES
    same = {JobStatus.VALIDATING_FILES} if is_validating else _RUNNABLE
    busy_with = [each for each in active if each.status in same and each.id in held]
    before = (
        0
        if is_validating
        else sum(each.status in same and each.id < job.id for each in active if each not in busy_with)
    )
    reasons = [*_busy(busy_with, alive, is_validating=is_validating), *_devices(alive, is_validating=is_validating)]
    if reasons:
        waiting = f"; {before} more {'is' if before == 1 else 'are'} before this one" if before else ""
        return f"{'; '.join(reasons)}{waiting}"
    is_new = now - job.created_at < _PATIENCE_SECONDS
    return None if is_new else f"None of {len(alive)} running workers has taken it yet"


def _busy(jobs: Sequence[Job], alive: Sequence[SeenWorker], *, is_validating: bool) -> list[str]:
    if not jobs:
        return []
    where = {job_id: f" on {seen.worker.device} of {seen.worker.host}" for seen in alive for job_id in seen.jobs}
    told = [each.id + (where.get(each.id, "") if len(alive) > 1 else "") for each in jobs]
    who = "The worker is" if len(alive) == 1 else f"The {len(alive)} workers are"
    return [f"{who} {'validating' if is_validating else 'training'} {', '.join(told)}"]


def _devices(alive: Sequence[SeenWorker], *, is_validating: bool) -> list[str]:
    """Accelerators that other workers of the same host use, or their jobs' last processes."""
    return [] if is_validating else sorted({seen.worker.waits_for for seen in alive if seen.worker.waits_for})

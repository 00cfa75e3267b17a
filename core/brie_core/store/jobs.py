"""What a job is and how it may move. Pure data: no database, no clock, no process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class JobKind(StrEnum):
    """What a job makes."""

    FINE_TUNE = "fine_tune"
    EXPORT = "export"
    EVALUATION = "evaluation"


class JobStatus(StrEnum):
    """OpenAI's statuses of a fine-tuning job, used for every kind."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    """Its worker has still to write a checkpoint."""
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = JobStatus
MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    _S.VALIDATING_FILES: frozenset({_S.QUEUED, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.QUEUED, _S.PAUSING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.PAUSED: frozenset({_S.VALIDATING_FILES, _S.QUEUED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}

ID_PREFIXES = {JobKind.FINE_TUNE: "ftjob", JobKind.EXPORT: "export", JobKind.EVALUATION: "eval"}


def may_move(source: JobStatus, target: JobStatus) -> bool:
    """Whether the table allows this move."""
    return target in MOVES[source]


def paused_from(status: JobStatus) -> JobStatus | None:
    """What a job in `status` becomes when it is asked to pause; itself if that was asked before, None if it cannot."""
    if status in {JobStatus.PAUSING, JobStatus.PAUSED}:
        return status
    return next((target for target in (JobStatus.PAUSED, JobStatus.PAUSING) if may_move(status, target)), None)


def is_final(status: JobStatus) -> bool:
    """A job in such a status stays in it, but that a failed one may be asked for again where it can go on."""
    return not MOVES[status]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the jobs table."""

    id: str
    kind: JobKind
    status: JobStatus
    spec: Mapping[str, Any]
    """What was asked for; never changes."""
    result: Mapping[str, Any]
    """What has come of it so far; grows."""
    error: Mapping[str, Any] | None
    created_at: int
    finished_at: int | None
    attempt: int
    """How often a worker has taken the job up to run it."""
    events_offset: int
    """Bytes of the current attempt's events file that have become rows."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to write to one job, until it expires or another takes it."""

    job_id: str
    owner: str
    token: int
    """Counts every claim of the job: the fence that a former owner's writes break on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event about to be written."""

    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the events table; `seq` runs from 1 without gaps within a job."""

    id: str
    job_id: str
    seq: int
    created_at: int
    level: str
    type: str
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One row of the checkpoints table."""

    id: str
    job_id: str
    step: int
    model: str
    """The name the checkpoint answers under."""
    version: str
    """Digest of its adapter version."""
    metrics: Mapping[str, Any]
    created_at: int

"""Rows of jobs and checkpoints as OpenAI shows them. Pure; it knows no store."""

from collections.abc import Mapping
from typing import Any

from brie_core.store.jobs import Checkpoint, Job
from brie_server.schema.fine_tuning_jobs import (
    FineTuningJob,
    JobCheckpoint,
    JobDetails,
    JobError,
    JobHyperparameters,
    JobMethod,
    JobPreference,
    JobPreferenceHyperparameters,
    JobSupervised,
)


def shown_job(job: Job, waiting: str | None = None) -> FineTuningJob:
    """The job; `waiting` says why it does not go on, if it does not."""
    spec, result = job.spec, job.result
    given = {**spec["hyperparameters"], **result.get("hyperparameters", {})}
    chosen = {name: value for name, value in given.items() if value is not None}
    method = _method(spec.get("method", "supervised"), chosen)
    is_ours = method.type == "kto"
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        estimated_finish=None if job.finished_at else result.get("estimated_finish"),
        model=spec["model"],
        fine_tuned_model=result.get("fine_tuned_model"),
        result_files=result.get("result_files", []),
        status=job.status,
        training_file=spec["training_file"],
        validation_file=spec["validation_file"],
        trained_tokens=result.get("trained_tokens"),
        error=None if job.error is None else JobError(**job.error),
        seed=spec["seed"],
        hyperparameters=JobHyperparameters(**_without_beta(chosen)),
        method=None if is_ours else method,
        integrations=spec.get("integrations", []),
        metadata=spec["metadata"],
        brie=_details(job, waiting, method if is_ours else None),
    )


def _method(name: str, chosen: Mapping[str, Any]) -> JobMethod:
    if name == "supervised":
        hyperparameters = JobHyperparameters(**_without_beta(chosen))
        return JobMethod(type="supervised", supervised=JobSupervised(hyperparameters=hyperparameters))
    preference = JobPreference(hyperparameters=JobPreferenceHyperparameters(**chosen))
    return JobMethod(type="dpo", dpo=preference) if name == "dpo" else JobMethod(type="kto", kto=preference)


def _without_beta(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name != "beta"}


def _details(job: Job, waiting: str | None, method: JobMethod | None) -> JobDetails:
    asked = {name: value for name, value in job.spec["brie"].items() if value not in (None, False, [])}
    names = ("chosen", "estimate", "data", "best_step")
    known = {name: job.result.get(name) for name in names}
    return JobDetails(options=asked, method=method, attempts=job.attempt, waiting=waiting, **known)


def shown_checkpoint(checkpoint: Checkpoint) -> JobCheckpoint:
    return JobCheckpoint(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=checkpoint.model,
        fine_tuning_job_id=checkpoint.job_id,
        metrics={name: value for name, value in checkpoint.metrics.items() if value is not None},
        step_number=checkpoint.step,
    )

"""/v1/fine_tuning/jobs in OpenAI's shapes. It writes and reads rows; a worker does the rest."""

import secrets
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.jobs import Checkpoint, Event, Job, JobKind, JobStatus, NewEvent
from brie_core.wire import Page, page_of
from brie_server.api.models import check_free_name
from brie_server.api.services import Given, Services
from brie_server.schema.fine_tuning import (
    CreateJob,
    FineTuningJob,
    JobCheckpoint,
    JobError,
    JobEvent,
    JobHyperparameters,
    JobMethod,
    JobSupervised,
)

Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


@post("/fine_tuning/jobs", status_code=200, operation_id="createFineTuningJob")
async def create_job(data: JSONBody[CreateJob], services: Given) -> FineTuningJob:
    """Write the job down; it is validated and trained by a worker."""
    services.unknown_fields.note(data)
    await _check(data, services)
    base = services.trainable_base()
    spec = data.model_dump(include={"model", "training_file", "validation_file", "suffix", "metadata"})
    spec |= {
        "seed": secrets.randbelow(2**31) if data.seed is None else data.seed,
        "hyperparameters": data.chosen.model_dump(include={"n_epochs", "batch_size", "learning_rate_multiplier"}),
        "brie": data.brie.model_dump(),
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
    }
    first = [NewEvent(message="Created fine-tuning job"), NewEvent(message="Validating training file")]
    return _job(await services.jobs.create(JobKind.FINE_TUNE, spec, JobStatus.VALIDATING_FILES, first))


@get("/fine_tuning/jobs", operation_id="listFineTuningJobs")
async def list_jobs(
    request: Request[Any, Any, Any], services: Given, after: FromQuery[str | None] = None, limit: Limit = 20
) -> Page[FineTuningJob]:
    """A page of jobs, newest first; `metadata[key]=value` selects."""
    wanted = {
        key.removeprefix("metadata[").removesuffix("]"): value
        for key, value in request.query_params.items()
        if key.startswith("metadata[")
    }
    found = await services.jobs.list(JobKind.FINE_TUNE, limit=limit + 1, after=after, metadata=wanted)
    return page_of([_job(job) for job in found], limit)


@get("/fine_tuning/jobs/{job_id:str}", operation_id="retrieveFineTuningJob")
async def retrieve_job(job_id: FromPath[str], services: Given) -> FineTuningJob:
    """One job."""
    return _job(await services.jobs.get(job_id, JobKind.FINE_TUNE))


@post("/fine_tuning/jobs/{job_id:str}/cancel", status_code=200, operation_id="cancelFineTuningJob")
async def cancel_job(job_id: FromPath[str], services: Given) -> FineTuningJob:
    """Cancel a job that is not finished; its checkpoints stay."""
    return _job(await services.jobs.cancel(job_id, JobKind.FINE_TUNE))


@get("/fine_tuning/jobs/{job_id:str}/events", operation_id="listFineTuningEvents")
async def list_events(
    job_id: FromPath[str], services: Given, after: FromQuery[str | None] = None, limit: Limit = 20
) -> Page[JobEvent]:
    """A page of a job's events, newest first."""
    await services.jobs.get(job_id, JobKind.FINE_TUNE)
    found = await services.jobs.events(job_id, limit=limit + 1, after=after)
    return page_of([_event(event) for event in found], limit)


@get("/fine_tuning/jobs/{job_id:str}/checkpoints", operation_id="listFineTuningJobCheckpoints")
async def list_checkpoints(
    job_id: FromPath[str], services: Given, after: FromQuery[str | None] = None, limit: Limit = 10
) -> Page[JobCheckpoint]:
    """A page of a job's checkpoints, newest first; each can be asked as a model."""
    await services.jobs.get(job_id, JobKind.FINE_TUNE)
    found = await services.jobs.checkpoints(job_id, limit=limit + 1, after=after)
    return page_of([_checkpoint(checkpoint) for checkpoint in found], limit)


async def _check(data: CreateJob, services: Services) -> None:
    """What can be told before a row is written."""
    if data.model != services.base.id:
        raise NotFound(
            f"{data.model!r} cannot be fine-tuned here: this server trains {services.base.id!r}.",
            param="model",
            code="model_not_found",
        )
    if data.suffix is not None:
        check_free_name(data.suffix, services, param="suffix")
    for param in ("training_file", "validation_file"):
        file_id = getattr(data, param)
        if file_id is not None:
            await _check_file(file_id, param, services)


async def _check_file(file_id: str, param: str, services: Services) -> None:
    try:
        stored = await services.files.get(file_id)
    except NotFound as error:
        raise InvalidRequest(error.message, param=param, code="file_not_found") from error
    if stored.purpose != "fine-tune":
        raise InvalidRequest(
            f"{file_id} was uploaded for {stored.purpose!r}: upload it with purpose 'fine-tune'.",
            param=param,
            code="invalid_file_purpose",
        )


def _job(job: Job) -> FineTuningJob:
    spec, result = job.spec, job.result
    chosen = {name: value for name, value in spec["hyperparameters"].items() if value is not None}
    hyperparameters = JobHyperparameters(**(chosen | result.get("hyperparameters", {})))
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
        hyperparameters=hyperparameters,
        method=JobMethod(supervised=JobSupervised(hyperparameters=hyperparameters)),
        integrations=[],
        metadata=spec["metadata"],
    )


def _event(event: Event) -> JobEvent:
    return JobEvent(
        id=event.id,
        created_at=event.created_at,
        level=event.level,
        message=event.message,
        type=event.type,
        data=dict(event.data),
    )


def _checkpoint(checkpoint: Checkpoint) -> JobCheckpoint:
    return JobCheckpoint(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=checkpoint.model,
        fine_tuning_job_id=checkpoint.job_id,
        metrics=dict(checkpoint.metrics),
        step_number=checkpoint.step,
    )

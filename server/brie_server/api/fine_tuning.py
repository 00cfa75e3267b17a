"""/v1/fine_tuning/jobs in OpenAI's shapes. It writes and reads rows; a worker does the rest."""

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody

from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.job_folder import read_job_folder
from brie_core.store.job_requests import JobRequest
from brie_core.store.jobs import Job, JobKind, JobStatus, NewEvent, is_final
from brie_core.wire import Page, page_of
from brie_server.api.fine_tuning_views import shown_checkpoint, shown_job
from brie_server.api.job_resources import Limit
from brie_server.api.models import check_free_name
from brie_server.api.services import Given, Services
from brie_server.api.waiting import why_waiting
from brie_server.schema.fine_tuning import CreateJob
from brie_server.schema.fine_tuning_jobs import FineTuningJob, JobCheckpoint

_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
_SHAPE = ("rank", "alpha", "dropout", "target_modules")
Key = Annotated[
    str | None, HeaderParameter(name="idempotency-key", min_length=1, max_length=255, include_in_schema=False)
]
Retries = Annotated[int, HeaderParameter(name="x-stainless-retry-count", ge=0, include_in_schema=False)]
"""How often OpenAI's SDK has sent this before; it sends no key."""


@post("/fine_tuning/jobs", status_code=200, operation_id="createFineTuningJob")
async def create_job(
    data: JSONBody[CreateJob], services: Given, idempotency_key: Key = None, retry_count: Retries = 0
) -> FineTuningJob:
    """Write the job down, once however often it is asked for; it is validated and trained by a worker."""
    services.unknown_fields.note(data)
    request = JobRequest(body=_digest(data), key=idempotency_key, is_repeated=retry_count > 0)
    await _check(data, services)
    spec = await _spec(data, services)
    first = [NewEvent(message="Created fine-tuning job"), NewEvent(message="Validating training file")]
    return shown_job(await services.jobs.create(JobKind.FINE_TUNE, spec, JobStatus.VALIDATING_FILES, first, request))


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
    return page_of(await _shown(found, services), limit)


@get("/fine_tuning/jobs/{job_id:str}", operation_id="retrieveFineTuningJob")
async def retrieve_job(job_id: FromPath[str], services: Given) -> FineTuningJob:
    """One job."""
    return (await _shown([await services.jobs.get(job_id, JobKind.FINE_TUNE)], services))[0]


@post("/fine_tuning/jobs/{job_id:str}/cancel", status_code=200, operation_id="cancelFineTuningJob")
async def cancel_job(job_id: FromPath[str], services: Given) -> FineTuningJob:
    """Cancel a job that is not finished; its checkpoints stay."""
    return shown_job(await services.jobs.cancel(job_id, JobKind.FINE_TUNE))


@post("/fine_tuning/jobs/{job_id:str}/pause", status_code=200, operation_id="pauseFineTuningJob")
async def pause_job(job_id: FromPath[str], services: Given) -> FineTuningJob:
    """Stop a job behind a checkpoint, to be resumed; what waits is paused at once."""
    return shown_job(await services.jobs.pause(job_id, JobKind.FINE_TUNE))


@post("/fine_tuning/jobs/{job_id:str}/resume", status_code=200, operation_id="resumeFineTuningJob")
async def resume_job(job_id: FromPath[str], services: Given) -> FineTuningJob:
    """Go on with a paused job, or with one whose folder was moved here from another BRIE_HOME."""
    try:
        await services.jobs.get(job_id, JobKind.FINE_TUNE)
    except NotFound:
        await _adopt(job_id, services)
    return shown_job(await services.jobs.resume(job_id, JobKind.FINE_TUNE))


@get("/fine_tuning/jobs/{job_id:str}/checkpoints", operation_id="listFineTuningJobCheckpoints")
async def list_checkpoints(
    job_id: FromPath[str], services: Given, after: FromQuery[str | None] = None, limit: Limit = 10
) -> Page[JobCheckpoint]:
    """A page of a job's checkpoints, newest first; each can be asked as a model."""
    await services.jobs.get(job_id, JobKind.FINE_TUNE)
    found = await services.jobs.checkpoints(job_id, limit=limit + 1, after=after)
    return page_of([shown_checkpoint(checkpoint) for checkpoint in found], limit)


async def _shown(found: Sequence[Job], services: Services) -> list[FineTuningJob]:
    """Jobs with what each waits for."""
    if all(is_final(job.status) for job in found):
        return [shown_job(job) for job in found]
    active = [job for job in await services.jobs.list_active() if job.kind is JobKind.FINE_TUNE]
    held, workers = await services.jobs.in_hand(JobKind.FINE_TUNE), await services.workers.list()
    return [shown_job(job, why_waiting(job, active, held, workers, time.time())) for job in found]


def _digest(data: CreateJob) -> str:
    """Of all that is asked for; a file's id stands for its content, which never changes."""
    return hashlib.sha256(json.dumps(data.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


async def _check(data: CreateJob, services: Services) -> None:
    """What can be told before a row is written."""
    if data.model != services.base.id:
        raise NotFound(
            f"{data.model!r} cannot be fine-tuned here: this server trains {services.base.id!r}.",
            param="model",
            code="model_not_found",
        )
    _check_options(data)
    await _check_quantization(data, services)
    if data.suffix is not None:
        check_free_name(data.suffix, services, param="suffix")
    for param in ("training_file", "validation_file"):
        file_id = getattr(data, param)
        if file_id is not None:
            await _check_file(file_id, param, services)


async def _spec(data: CreateJob, services: Services) -> dict[str, Any]:
    """All that a worker is told; it never changes."""
    base, start = services.trainable_base(), data.brie.from_checkpoint
    return {
        **data.model_dump(include={"model", "training_file", "validation_file", "suffix", "metadata"}),
        "seed": secrets.randbelow(2**31) if data.seed is None else data.seed,
        "method": data.method.type if data.method else "supervised",
        "hyperparameters": {"beta": None} | data.chosen.model_dump(include=set(_HYPERPARAMETERS)),
        "integrations": [each.model_dump(exclude_none=True) for each in data.integrations or ()],
        "brie": data.brie.model_dump(),
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
        "from_version": None if start is None else await _version_of(start, services),
    }


async def _version_of(name: str, services: Services) -> str:
    """The adapter version to go on from, as the name stands now."""
    try:
        version = services.adapters.open((await services.aliases.get(name)).version)
    except NotFound as error:
        raise NotFound(error.message, param="brie.from_checkpoint", code="model_not_found") from error
    if version.manifest["base"]["digest"] != services.trainable_base().digest:
        raise InvalidRequest(
            f"{name!r} was trained on {version.manifest['base']['id']}, with other weights than this server has.",
            param="brie.from_checkpoint",
            code="adapter_base_mismatch",
        )
    return version.digest


async def _adopt(job_id: str, services: Services) -> None:
    found, base = read_job_folder(services.settings.home / "jobs", job_id), services.trainable_base()
    if found.spec["base"]["digest"] != base.digest:
        raise InvalidRequest(
            f"Job {job_id} is for {found.spec['base']['id']} with other weights than this server has.",
            param="job_id",
            code="base_model_changed",
        )
    spec = {**found.spec, "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest}}
    await services.jobs.adopt(job_id, JobKind.FINE_TUNE, spec, found.created_at, found.attempts)


def _check_options(data: CreateJob) -> None:
    for name in _SHAPE if data.brie.from_checkpoint else ():
        if getattr(data.brie, name) is not None:
            raise InvalidRequest(
                f"The adapter that the run goes on from decides its own {name}: leave it out.", param=f"brie.{name}"
            )
    if data.brie.packing:
        raise InvalidRequest(
            "Sequences stand end to end here and are never padded, so there is nothing to pack: leave packing out.",
            param="brie.packing",
        )


async def _check_quantization(data: CreateJob, services: Services) -> None:
    """Some worker, on whatever host, or this server's own device must be able to."""
    if not data.brie.quantization or services.settings.device_type in {"auto", "cuda"}:
        return
    if not any(seen.is_alive and seen.worker.device.startswith("cuda") for seen in await services.workers.list()):
        raise InvalidRequest(
            f"A base of {data.brie.quantization} needs an NVIDIA GPU, and this trains on {services.settings.device}.",
            param="brie.quantization",
            code="quantization_unavailable",
        )


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

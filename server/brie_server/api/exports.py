"""/v1/exports: ask for a model as a file, follow it, download it. It writes and reads rows; a worker does the rest."""

from pathlib import Path
from typing import Annotated

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import File

from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.jobs import Job, JobKind, JobStatus, NewEvent
from brie_core.wire import QUANTIZATIONS, ExportedFile, ExportError, ExportObject, Page, page_of
from brie_server.api.services import Given
from brie_server.schema.resources import CreateExport

Limit = Annotated[int, QueryParameter(ge=1, le=1000)]


@post("/exports", status_code=200, operation_id="createExport")
async def create_export(data: JSONBody[CreateExport], services: Given) -> ExportObject:
    """Write the export down; a worker merges, writes, quantizes and verifies."""
    if data.quantization not in QUANTIZATIONS:
        raise InvalidRequest(
            f"quantization is {data.quantization!r}, not one of {', '.join(QUANTIZATIONS)}.",
            param="quantization",
            code="unsupported_quantization",
        )
    base = services.trainable_base()
    is_base = data.model == base.id
    spec = {
        "model": data.model,
        "quantization": data.quantization,
        "version": None if is_base else (await services.aliases.get(data.model)).version,
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
    }
    first = [NewEvent(message="Created export")]
    return _export(await services.jobs.create(JobKind.EXPORT, spec, JobStatus.QUEUED, first))


@get("/exports", operation_id="listExports")
async def list_exports(services: Given, after: FromQuery[str | None] = None, limit: Limit = 20) -> Page[ExportObject]:
    """A page of exports, newest first."""
    found = await services.jobs.list(JobKind.EXPORT, limit=limit + 1, after=after)
    return page_of([_export(job) for job in found], limit)


@get("/exports/{export_id:str}", operation_id="retrieveExport")
async def retrieve_export(export_id: FromPath[str], services: Given) -> ExportObject:
    """One export."""
    return _export(await services.jobs.get(export_id, JobKind.EXPORT))


@post("/exports/{export_id:str}/cancel", status_code=200, operation_id="cancelExport")
async def cancel_export(export_id: FromPath[str], services: Given) -> ExportObject:
    """Cancel an export that is not finished."""
    return _export(await services.jobs.cancel(export_id, JobKind.EXPORT))


@get("/exports/{export_id:str}/content", operation_id="downloadExport")
async def download_export(export_id: FromPath[str], services: Given) -> File:
    """The exported file's bytes."""
    job = await services.jobs.get(export_id, JobKind.EXPORT)
    files = job.result.get("files", [])
    if job.status is not JobStatus.SUCCEEDED or not files:
        raise NotFound(f"Export {export_id} is {job.status}: there is no file to download.", code="export_not_ready")
    filename = Path(files[0]["filename"]).name
    path = services.settings.home / "exports" / job.id / filename
    if not path.is_file():
        raise NotFound(f"The file of export {export_id} was removed from disk.", code="export_file_missing")
    return File(path=path, filename=filename, media_type="application/octet-stream")


def _export(job: Job) -> ExportObject:
    return ExportObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        status=job.status,
        model=job.spec["model"],
        version=job.spec["version"],
        quantization=job.spec["quantization"],
        progress=1.0 if job.status is JobStatus.SUCCEEDED else job.result.get("progress", 0.0),
        message=job.result.get("message"),
        files=[ExportedFile(**entry) for entry in job.result.get("files", [])],
        error=None if job.error is None else ExportError(**job.error),
    )

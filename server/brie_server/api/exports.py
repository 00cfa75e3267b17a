"""/v1/exports: ask for a model as files, follow it, download and delete them. It knows rows; a worker makes files."""

from pathlib import Path
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from brie_core.background import in_background
from brie_core.errors import InvalidRequest
from brie_core.export_names import ADAPTER_FORMATS, QUANTIZATIONS
from brie_core.store.job_store import check_finished
from brie_core.store.jobs import Job, JobKind, JobStatus, NewEvent
from brie_core.wire import (
    Deleted,
    ExportedFile,
    ExportError,
    ExportEvent,
    ExportObject,
    Page,
    page_of,
)
from brie_server.api.job_resources import Limit, file_of, remove_files, shown_event
from brie_server.api.ranges import ranged_file
from brie_server.api.services import Given, Services
from brie_server.schema.resources import CreateExport


@post("/exports", status_code=200, operation_id="createExport")
async def create_export(data: JSONBody[CreateExport], services: Given) -> ExportObject:
    """Write the export down; a worker merges, writes, quantizes and verifies."""
    _check_quantization(data)
    base = services.trainable_base()
    is_base = data.model == base.id
    version = None if is_base else (await services.aliases.get(data.model)).version
    if version is None and data.format in ADAPTER_FORMATS:
        raise InvalidRequest(
            f"The format {data.format} is of an adapter, and {data.model!r} is the base model.",
            param="model",
            code="adapter_required",
        )
    spec = {
        "model": data.model,
        "format": data.format,
        "quantization": (data.quantization or "f16") if data.format == "gguf" else None,
        "dtype": data.dtype,
        "version": version,
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


@delete("/exports/{export_id:str}", status_code=200, operation_id="deleteExport")
async def delete_export(export_id: FromPath[str], services: Given) -> Deleted:
    """Delete a finished export with its files; downloads that have begun go on to their end."""
    check_finished(await services.jobs.get(export_id, JobKind.EXPORT))
    await in_background(remove_files, export_id, _place(services), services.settings.home)
    await services.jobs.delete(export_id, JobKind.EXPORT)  # last, so that a crash leaves what can be deleted again
    return Deleted(id=export_id, object="export")


@get("/exports/{export_id:str}/events", operation_id="listExportEvents")
async def list_export_events(
    export_id: FromPath[str], services: Given, after: FromQuery[str | None] = None, limit: Limit = 20
) -> Page[ExportEvent]:
    """A page of an export's events, newest first."""
    await services.jobs.get(export_id, JobKind.EXPORT)
    found = await services.jobs.events(export_id, limit=limit + 1, after=after)
    return page_of([shown_event(event, ExportEvent) for event in found], limit)


@get("/exports/{export_id:str}/content", operation_id="downloadExport")
async def download_export(
    export_id: FromPath[str], request: Request[Any, Any, Any], services: Given
) -> Response[bytes]:
    """The bytes of the export's main file, whole or the range that is asked for."""
    job = await services.jobs.get(export_id, JobKind.EXPORT)
    if job.spec.get("format") == "merged":
        raise InvalidRequest(
            f"Export {export_id} is a folder: download each of its files from /v1/exports/{export_id}/files/NAME.",
            param="export_id",
            code="export_is_a_folder",
        )
    return _download(job, None, request, services)


@get("/exports/{export_id:str}/files/{filename:str}", operation_id="downloadExportFile")
async def download_export_file(
    export_id: FromPath[str], filename: FromPath[str], request: Request[Any, Any, Any], services: Given
) -> Response[bytes]:
    """The bytes of one of the export's files, whole or the range that is asked for."""
    return _download(await services.jobs.get(export_id, JobKind.EXPORT), filename, request, services)


def _download(job: Job, filename: str | None, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
    path, file = file_of(job, filename, _place(services))
    return ranged_file(path, path.name, file.sha256, request.headers)


def _place(services: Services) -> Path:
    return services.settings.home / "exports"


def _check_quantization(data: CreateExport) -> None:
    if data.quantization is not None and data.format == "gguf" and data.quantization not in QUANTIZATIONS:
        raise InvalidRequest(
            f"quantization is {data.quantization!r}, not one of {', '.join(QUANTIZATIONS)}.",
            param="quantization",
            code="unsupported_quantization",
        )


def _export(job: Job) -> ExportObject:
    return ExportObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        status=job.status,
        model=job.spec["model"],
        version=job.spec["version"],
        format=job.spec.get("format", "gguf"),
        quantization=job.spec["quantization"],
        dtype=job.spec.get("dtype"),
        progress=1.0 if job.status is JobStatus.SUCCEEDED else job.result.get("progress", 0.0),
        message=job.result.get("message"),
        files=[ExportedFile(**entry) for entry in job.result.get("files", [])],
        error=None if job.error is None else ExportError(**job.error),
    )

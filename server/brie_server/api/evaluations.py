"""/v1/evaluations: ask how models compare, follow it, read what it says. It knows rows; a worker has models asked."""

from pathlib import Path
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from brie_core.background import in_background
from brie_core.store.job_store import check_finished
from brie_core.store.jobs import Job, JobKind, JobStatus, NewEvent
from brie_core.wire import Deleted, EvaluationEvent, EvaluationObject, ExportedFile, Page, page_of
from brie_server.api.evaluation_specs import evaluation_spec
from brie_server.api.evaluation_views import shown_evaluation
from brie_server.api.job_resources import Limit, file_of, remove_files, shown_event
from brie_server.api.ranges import ranged_file
from brie_server.api.services import Given, Services
from brie_server.schema.evaluations import CreateEvaluation

_KIND = JobKind.EVALUATION
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox"
)
"""Of the page: what models and people wrote in it is shown, and can do nothing."""


@post("/evaluations", status_code=200, operation_id="createEvaluation")
async def create_evaluation(data: JSONBody[CreateEvaluation], services: Given) -> EvaluationObject:
    """Write the evaluation down, with the exact versions that are meant; a worker has them asked."""
    spec = await evaluation_spec(data, services)
    first = [NewEvent(message="Created evaluation")]
    return shown_evaluation(await services.jobs.create(_KIND, spec, JobStatus.QUEUED, first))


@get("/evaluations", operation_id="listEvaluations")
async def list_evaluations(
    services: Given, after: FromQuery[str | None] = None, limit: Limit = 20
) -> Page[EvaluationObject]:
    """A page of evaluations, newest first."""
    found = await services.jobs.list(_KIND, limit=limit + 1, after=after)
    return page_of([shown_evaluation(job) for job in found], limit)


@get("/evaluations/{evaluation_id:str}", operation_id="retrieveEvaluation")
async def retrieve_evaluation(evaluation_id: FromPath[str], services: Given) -> EvaluationObject:
    """One evaluation."""
    return shown_evaluation(await services.jobs.get(evaluation_id, _KIND))


@post("/evaluations/{evaluation_id:str}/cancel", status_code=200, operation_id="cancelEvaluation")
async def cancel_evaluation(evaluation_id: FromPath[str], services: Given) -> EvaluationObject:
    """Cancel an evaluation that is not finished."""
    return shown_evaluation(await services.jobs.cancel(evaluation_id, _KIND))


@post("/evaluations/{evaluation_id:str}/resume", status_code=200, operation_id="resumeEvaluation")
async def resume_evaluation(evaluation_id: FromPath[str], services: Given) -> EvaluationObject:
    """Go on with an evaluation that has failed, from the answers and verdicts that it has: 409 for any other."""
    return shown_evaluation(await services.jobs.resume_failed(evaluation_id, _KIND))


@delete("/evaluations/{evaluation_id:str}", status_code=200, operation_id="deleteEvaluation")
async def delete_evaluation(evaluation_id: FromPath[str], services: Given) -> Deleted:
    """Delete a finished evaluation with its report and all that was answered."""
    check_finished(await services.jobs.get(evaluation_id, _KIND))
    await in_background(remove_files, evaluation_id, _place(services), services.settings.home)
    await services.jobs.delete(evaluation_id, _KIND)  # last, so that a crash leaves what can be deleted again
    return Deleted(id=evaluation_id, object="evaluation")


@get("/evaluations/{evaluation_id:str}/events", operation_id="listEvaluationEvents")
async def list_evaluation_events(
    evaluation_id: FromPath[str], services: Given, after: FromQuery[str | None] = None, limit: Limit = 20
) -> Page[EvaluationEvent]:
    """A page of an evaluation's events, newest first."""
    await services.jobs.get(evaluation_id, _KIND)
    found = await services.jobs.events(evaluation_id, limit=limit + 1, after=after)
    return page_of([shown_event(event, EvaluationEvent) for event in found], limit)


@get("/evaluations/{evaluation_id:str}/report", operation_id="retrieveEvaluationReport")
async def retrieve_report(evaluation_id: FromPath[str], services: Given) -> Response[bytes]:
    """report.json, byte for byte: every figure with its interval."""
    file, _ = _file(await services.jobs.get(evaluation_id, _KIND), "report.json", services)
    return Response(await in_background(file.read_bytes), media_type="application/json")


@get("/evaluations/{evaluation_id:str}/page", operation_id="retrieveEvaluationPage")
async def retrieve_page(evaluation_id: FromPath[str], services: Given) -> Response[bytes]:
    """The report with its plots, to be looked at; it loads nothing and runs nothing."""
    file, _ = _file(await services.jobs.get(evaluation_id, _KIND), "page.html", services)
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
    page = await in_background(file.read_bytes)
    return Response(page, media_type="text/html", headers=headers)


@get("/evaluations/{evaluation_id:str}/files/{filename:str}", operation_id="downloadEvaluationFile")
async def download_evaluation_file(
    evaluation_id: FromPath[str], filename: FromPath[str], request: Request[Any, Any, Any], services: Given
) -> Response[bytes]:
    """The bytes of one of the evaluation's files, whole or the range that is asked for; rows.jsonl has every answer."""
    path, entry = _file(await services.jobs.get(evaluation_id, _KIND), filename, services)
    return ranged_file(path, path.name, entry.sha256, request.headers)


def _file(job: Job, filename: str, services: Services) -> tuple[Path, ExportedFile]:
    return file_of(job, filename, _place(services))


def _place(services: Services) -> Path:
    return services.settings.home / "evaluations"

"""A job's events, as a page or as they come. It reads rows; a worker writes them."""

import asyncio
from collections.abc import AsyncGenerator

from litestar import Response, get
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from brie_core.errors import InvalidRequest
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import JobKind, is_final
from brie_core.wire import Page, page_of
from brie_server.api.job_resources import Limit, shown_event
from brie_server.api.services import Given
from brie_server.api.streaming import event_stream
from brie_server.schema.fine_tuning_jobs import JobEvent

_POLL_SECONDS = 0.25
_AT_ONCE = 100


@get("/fine_tuning/jobs/{job_id:str}/events", operation_id="listFineTuningEvents")
async def list_events(
    job_id: FromPath[str],
    services: Given,
    after: FromQuery[str | None] = None,
    limit: Limit = 20,
    *,
    stream: FromQuery[bool] = False,
) -> Response[Page[JobEvent]] | Stream:
    """A page of a job's events, newest first; streamed, all of them, oldest first, until the job is finished."""
    await services.jobs.get(job_id, JobKind.FINE_TUNE)
    if stream:
        told = _told(services.jobs, job_id, await _place(services.jobs, job_id, after))
        return event_stream(told, {}, told.aclose)
    found = await services.jobs.events(job_id, limit=limit + 1, after=after)
    return Response(page_of([shown_event(event, JobEvent) for event in found], limit))


async def _place(jobs: JobStore, job_id: str, after: str | None) -> int:
    """Behind which event of the job a stream begins; raises InvalidRequest."""
    place = 0 if after is None else await jobs.seq_of(job_id, after)
    if place is None:
        raise InvalidRequest(f"{after!r} is not an event of job {job_id}.", param="after", code="event_not_found")
    return place


async def _told(jobs: JobStore, job_id: str, place: int) -> AsyncGenerator[JobEvent]:
    while True:
        finished = is_final((await jobs.get(job_id)).status)  # asked first: nothing follows what is there by then
        events = await jobs.events_since(job_id, place, limit=_AT_ONCE)
        for event in events:
            place = event.seq
            yield shown_event(event, JobEvent)
        if len(events) == _AT_ONCE:
            continue
        if finished:
            return
        await asyncio.sleep(_POLL_SECONDS)

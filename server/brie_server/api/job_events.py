"""A job's events as they happen, for a stream. It reads rows again and again, and knows no worker."""

import asyncio
from collections.abc import AsyncGenerator

from brie_core.store.job_store import JobStore
from brie_core.store.jobs import is_final
from brie_server.api.fine_tuning_views import shown_event
from brie_server.schema.fine_tuning_jobs import JobEvent

_POLL_SECONDS = 0.3
_AT_ONCE = 200


async def followed(jobs: JobStore, job_id: str, after: str | None) -> AsyncGenerator[JobEvent]:
    """Every event behind `after`, oldest first; ends with a finished job's last."""
    seq = await jobs.seq_of(job_id, after) if after else 0
    while True:
        over = is_final((await jobs.get(job_id)).status)  # first: a last event is written with its status
        found = await jobs.events_behind(job_id, seq, _AT_ONCE)
        for event in found:
            yield shown_event(event)
            seq = event.seq
        if over and not found:
            return
        if not found:
            await asyncio.sleep(_POLL_SECONDS)

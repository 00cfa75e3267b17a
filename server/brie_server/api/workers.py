"""/v1/workers: who works, on what, and with which job in hand. It reads rows; workers write them."""

from litestar import get

from brie_core.store.workers import SeenWorker
from brie_core.wire import Page, WorkerObject, page_of
from brie_server.api.services import Given


@get("/workers", operation_id="listWorkers")
async def list_workers(services: Given) -> Page[WorkerObject]:
    """Every worker that was seen in the last day, oldest first."""
    return page_of([_shown(seen) for seen in await services.workers.list()])


def _shown(seen: SeenWorker) -> WorkerObject:
    worker = seen.worker
    return WorkerObject(
        id=worker.id,
        host=worker.host,
        pid=worker.pid,
        device=worker.device,
        version=worker.version,
        kinds=list(worker.kinds),
        status=_status(seen),
        waiting=worker.waits_for if seen.is_alive else None,
        jobs=list(seen.jobs),
        started_at=worker.started_at,
        seen_at=seen.seen_at,
    )


def _status(seen: SeenWorker) -> str:
    if not seen.is_alive:
        return "gone"
    if seen.jobs:
        return "busy"
    return "waiting" if seen.worker.waits_for else "idle"

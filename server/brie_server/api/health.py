"""/health: alive, and ready to answer. It touches no queue."""

from litestar import get

from brie_server.api.services import Given


@get("/health/live", operation_id="live")
async def live() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "live"}


@get("/health/ready", operation_id="ready")
async def ready(services: Given) -> dict[str, str]:
    """200 once models can be asked; before that the port is not bound."""
    return {"status": "ready", "model": services.base.id}


@get("/health", operation_id="health")
async def health(services: Given) -> dict[str, str]:
    """The same in llama.cpp's words."""
    return {"status": "ok", "model": services.base.id}

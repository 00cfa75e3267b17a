"""`python -m brie_server`: settings, base model, uvicorn. It knows how to start the API, not what it does."""

import gc
import tempfile

import uvicorn

from brie_core.settings import Settings
from brie_core.start import start_service, told_in_one_line
from brie_core.store.schema import migrate
from brie_core.weights.gguf_model import ServedModel
from brie_core.weights.resolve import resolve_served_model
from brie_server.app import create_app
from brie_server.engine.base import Engine
from brie_server.engine.factory import create_engine


def main() -> None:
    """Serve until told to stop; a setting or model that cannot be used ends the process with one line and status 2."""
    settings, base = start_service(resolve_served_model)
    with told_in_one_line():
        settings.home.mkdir(parents=True, exist_ok=True)
        migrate(settings)
    spool = settings.home / "tmp"
    spool.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(spool)  # uploads spool beside the data, not in a small /tmp
    uvicorn.run(
        create_app(settings, base, _create_engine),
        host=settings.host,
        port=settings.port,
        http="h11",  # httptools is faster, but keeps a request's head however long it grows
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )


def _create_engine(settings: Settings, base: ServedModel) -> Engine:
    """What is there by now stays: unfrozen, each full collection looks through it, and all streams wait for 150 ms."""
    engine = create_engine(settings, base)
    gc.collect()
    gc.freeze()
    return engine


if __name__ == "__main__":
    main()

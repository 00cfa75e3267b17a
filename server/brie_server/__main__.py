"""`python -m brie_server`: settings, base model, uvicorn. It knows how to start the API, not what it does."""

import tempfile

import uvicorn

from brie_core.start import start_service
from brie_core.weights.resolve import resolve_served_model
from brie_server.app import create_app


def main() -> None:
    """Serve until told to stop; a setting or model that cannot be used ends the process with one line and status 2."""
    settings, base = start_service(resolve_served_model)
    spool = settings.home / "tmp"
    spool.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(spool)  # uploads spool beside the data, not in a small /tmp
    uvicorn.run(
        create_app(settings, base),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()

"""`python -m brie_server`: settings, base model, uvicorn. It knows how to start the API, not what it does."""

import logging
import os
import sys
import tempfile

import uvicorn

from brie_core.errors import BrieError
from brie_core.libraries import prepare_libraries
from brie_core.lifeline import die_with_parent
from brie_core.settings import Settings
from brie_core.weights.resolve import resolve_base_model
from brie_server.app import create_app


def main() -> None:
    """Serve until told to stop; a setting or model that cannot be used ends the process with one line and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if "--supervised" in sys.argv:
        die_with_parent()
    prepare_libraries(os.environ)
    try:
        settings = Settings.from_environment(os.environ)
        base = resolve_base_model(settings)
    except BrieError as error:
        sys.stderr.write(f"brie: {error.message}\n")
        sys.exit(2)
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

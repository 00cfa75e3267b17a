"""How every Brie service process begins: logging, libraries, settings, base model. It knows no service."""

import logging
import os
import sys

from brie_core.errors import BrieError
from brie_core.libraries import prepare_libraries
from brie_core.lifeline import die_with_parent
from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import resolve_base_model


def start_service() -> tuple[Settings, BaseModel]:
    """Call first thing in a service's main; what cannot be used ends the process with one line and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if "--supervised" in sys.argv:
        die_with_parent()
    prepare_libraries(os.environ)
    try:
        settings = Settings.from_environment(os.environ)
        return settings, resolve_base_model(settings)
    except BrieError as error:
        sys.stderr.write(f"brie: {error.message}\n")
        sys.exit(2)

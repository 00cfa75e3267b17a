"""How every Brie service process begins: logging, libraries, settings, base model. It knows no service."""

import logging
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from brie_core.errors import BrieError
from brie_core.libraries import prepare_libraries
from brie_core.lifeline import die_with_parent
from brie_core.settings import Settings

_ModelT = TypeVar("_ModelT")


def start_service(resolve: Callable[[Settings], _ModelT]) -> tuple[Settings, _ModelT]:
    """Call first thing in a service's main; what cannot be used ends the process with one line and status 2.

    `resolve` finds the model that the service works on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if "--supervised" in sys.argv:
        die_with_parent()
    prepare_libraries(os.environ)
    try:
        settings = Settings.from_environment(os.environ)
        return settings, resolve(settings)
    except BrieError as error:
        sys.stderr.write(f"brie: {error.message}\n")
        sys.exit(2)

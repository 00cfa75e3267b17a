"""How every Brie service process begins: logging, libraries, settings, base model. It knows no service."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from brie_core.errors import BrieError, DatabaseUnavailable
from brie_core.libraries import prepare_libraries, show_only
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
    with told_in_one_line():
        settings = Settings.from_environment(os.environ)
        show_only(settings.device, os.environ)
        return settings, resolve(settings)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """An error ends the process: status 2 for what cannot be used, 1 for a database that may be back later."""
    try:
        yield
    except BrieError as error:
        sys.stderr.write(f"brie: {error.message}\n")
        sys.exit(1 if isinstance(error, DatabaseUnavailable) else 2)

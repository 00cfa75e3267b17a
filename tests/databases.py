"""Where a test's services keep their rows: in SQLite in their home or, with `--postgresql`, in a database there."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Chosen:
    new: Callable[[], str] = lambda: ""


_chosen = _Chosen()


def new_database_url() -> str:
    """BRIE_DATABASE_URL for a service that is about to start."""
    return _chosen.new()


def choose(new: Callable[[], str]) -> None:
    """What makes a fresh database and returns its address; asked once for each service."""
    _chosen.new = new

"""Where a test's services keep their rows: in SQLite in their home or, with `--postgresql`, in a database there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class _Chosen:
    new: Callable[[], str] = lambda: ""
    known: dict[Path, str] = field(default_factory=dict)


_chosen = _Chosen()


def database_url_of(home: Path) -> str:
    """BRIE_DATABASE_URL for a service that is about to start in `home`; one that was there before left its rows."""
    if home not in _chosen.known:
        _chosen.known[home] = _chosen.new()
    return _chosen.known[home]


def choose(new: Callable[[], str]) -> None:
    """What makes a fresh database and returns its address; asked once for each home."""
    _chosen.new = new

"""Which resident adapters to drop for a new one. Pure: sizes and times in, names out."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """An adapter on the device."""

    version: str
    num_bytes: int
    users: int
    """Requests that answer from it now."""
    last_used: int
    """A counter: larger is more recent."""
    pinned: bool = False
    """Never to be dropped."""


def evictions(residents: Iterable[Resident], budget: int) -> list[str]:
    """The least recently used of those that are neither used nor pinned, until the sum of bytes is within `budget`."""
    kept = list(residents)
    excess = sum(resident.num_bytes for resident in kept) - budget
    dropped = []
    droppable = (resident for resident in kept if not resident.users and not resident.pinned)
    for resident in sorted(droppable, key=lambda resident: resident.last_used):
        if excess <= 0:
            break
        dropped.append(resident.version)
        excess -= resident.num_bytes
    return dropped

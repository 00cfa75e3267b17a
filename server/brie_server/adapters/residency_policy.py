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


def evictions(residents: Iterable[Resident], budget: int) -> list[str]:
    """The least recently used adapters that nobody uses, as many as bring the sum of bytes under `budget`."""
    kept = list(residents)
    excess = sum(resident.num_bytes for resident in kept) - budget
    dropped = []
    for resident in sorted((r for r in kept if not r.users), key=lambda resident: resident.last_used):
        if excess <= 0:
            break
        dropped.append(resident.version)
        excess -= resident.num_bytes
    return dropped

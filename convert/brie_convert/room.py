"""Whether the disk has room, asked before the work and where it failed. It knows bytes, not what they are for."""

import shutil
from pathlib import Path

from brie_core.errors import InsufficientStorage

_SPARE_BYTES = 64 * 2**20
_NOTHING_BYTES = 2**20


def free_bytes(folder: Path) -> int:
    """What can still be written to the disk of `folder`."""
    return shutil.disk_usage(folder).free


def check_room(needed: int, free: int) -> None:
    """Told before an hour's work, not after it; raises InsufficientStorage."""
    if needed + _SPARE_BYTES > free:
        raise InsufficientStorage(
            f"The export needs about {needed / 1e6:,.0f} MB, and the disk has {free / 1e6:,.0f} MB left: "
            "make room, and export again."
        )


def check_not_full(free: int) -> None:
    """For a failure of a library that does not say why; raises InsufficientStorage where the disk is full."""
    if free < _NOTHING_BYTES:
        raise InsufficientStorage("The disk is full: make room, and export again.")

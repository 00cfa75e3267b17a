"""Gates: what an adapter's versions must keep to before its name moves. It knows files; it judges nothing.

BRIE_HOME/gates/<sha256 of the name>.json, beside the adapters: a version's own folder never changes, and a gate belongs
to the name that moves.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_core.durable import write_file
from brie_core.errors import NotFound

Bounds = Mapping[str, Mapping[str, float | None]]
"""By path into a report: {"min": ..., "max": ...}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGate:
    """One name's gate."""

    name: str
    bounds: Bounds
    created_at: int


class GateStore:
    """The gates of one BRIE_HOME."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = home / "gates"
        self._clock = clock

    def put(self, name: str, bounds: Bounds) -> StoredGate:
        """Keep the gate of `name`, in place of one that is there."""
        gate = {"name": name, "created_at": int(self._clock()), "bounds": {path: dict(b) for path, b in bounds.items()}}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_file(self._file(name), json.dumps(gate, indent=2).encode())
        return self.get(name)

    def get(self, name: str) -> StoredGate:
        """The gate of `name`; raises NotFound."""
        file = self._file(name)
        if not file.is_file():
            raise NotFound(f"{name!r} has no gate: PUT /v1/gates/{name} stores one.", param="name", code="gate_missing")
        told: dict[str, Any] = json.loads(file.read_text())
        return StoredGate(name=told["name"], bounds=told["bounds"], created_at=told["created_at"])

    def remove(self, name: str) -> None:
        """Take the gate of `name` away; raises NotFound."""
        self.get(name)
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

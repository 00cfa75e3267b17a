"""What was asked and what came of it, a row each, and the log that keeps them. It knows no question and no figure.

A row is on the disk before the next is asked, so that a killed evaluation loses only what was in flight.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from brie_core.errors import Conflict

Kind = Literal["loss", "answer", "sweep", "verdict"]
Outcome = Literal["answered", "refused", "failed"]


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Key:
    """What a row is of; no two rows have the same."""

    kind: Kind
    candidate: str
    item: str
    """The prompt, or the held-out example."""
    sample: int = 0
    cell: str = ""
    """Of a sweep: its settings as JSON."""
    against: str = ""
    judge: str = ""
    order: int = 0
    """Of a verdict: 0 and 1 are the two orders of a pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a server said of itself with an answer."""

    version: str | None
    fingerprint: str | None
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of rows.jsonl."""

    key: Key
    outcome: Outcome
    tries: int
    reason: str | None = None
    """Of a refusal or a failure."""
    by: Answered | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> "Row":
        """As it was written."""
        by = written["by"]
        parts = {**written, "key": Key(**written["key"]), "by": None if by is None else Answered(**by)}
        return cls(**parts)


class RowLog:
    """rows.jsonl, which one process at a time may add to; raises Conflict for a second."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stream.close()
            raise Conflict(f"Another process is writing {file}.", code="evaluation_running") from error
        self.rows = self._recovered()

    def _recovered(self) -> dict[Key, Row]:
        """What is there; a last line that a kill has torn is taken away."""
        self._stream.seek(0)
        whole = 0
        rows: dict[Key, Row] = {}
        for line in self._stream:
            if not line.endswith(b"\n"):
                break
            row = Row.of(json.loads(line))
            rows[row.key] = row
            whole += len(line)
        self._stream.truncate(whole)
        return rows

    def add(self, row: Row) -> None:
        """Returns once the row is on the disk."""
        self._stream.write(json.dumps(row.as_json(), ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.rows[row.key] = row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def read_rows(file: Path) -> list[Row]:
    """All whole rows of a log, in the order of their keys."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return in_order(Row.of(json.loads(line)) for line in lines)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By key: what was asked side by side may have come in any order."""
    return sorted(rows, key=lambda row: row.key)

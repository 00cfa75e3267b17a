"""Who answered for each candidate, and that it stays the same one. It knows rows, and no server."""

from collections.abc import Iterable

from brie_core.errors import Conflict
from brie_trainer.evaluation.contract import Job
from brie_trainer.evaluation.rows import Answered, Row


class Identities:
    """Who answered for each candidate so far, in this attempt and in those before it."""

    def __init__(self, job: Job, rows: Iterable[Row]) -> None:
        self._pinned = {each.name: each.version for each in job.candidates}
        self._seen: dict[str, Answered] = {}
        for row in rows:
            self.check(row)

    def check(self, row: Row) -> None:
        """Raises Conflict for another version than before, or than was asked for.

        Of a server that tells no version, the name under which it answers must stay.
        """
        if row.by is None or row.key.kind == "verdict":
            return
        name, pinned = row.key.candidate, self._pinned[row.key.candidate]
        if pinned is not None and row.by.version != pinned:
            raise _changed(name, f"answers as version {row.by.version}, and not {pinned} as was asked for")
        before = self._seen.setdefault(name, row.by)
        if _identity(before) != _identity(row.by):
            raise _changed(name, f"now answers as {_identity(row.by)}, and did as {_identity(before)}")


def _identity(by: Answered) -> str:
    return by.model or "unnamed" if by.version is None else f"{by.version} ({by.fingerprint})"


def _changed(name: str, how: str) -> Conflict:
    return Conflict(
        f"{name!r} {how}. One evaluation compares one version of each candidate: evaluate the new one by itself.",
        param=name,
        code="version_changed",
    )

"""Who waits for a row, and whose turn it is next. Pure: it knows ages and adapters, and nothing of rows or tokens.

Whoever ran before and was sent back comes first. Of the others the oldest of the adapter that has the fewest rows is
next, so that one adapter's hundred requests do not keep another's single one waiting behind them all; the base counts
as an adapter. But younger ones pass the oldest of all at most PATIENCE times: then age wins, and nobody starves.
"""

from collections import Counter, deque
from collections.abc import Iterable

from brie_server.engine.torch.sequence import Sequence

PATIENCE = 8
"""More is fairer to many adapters with few requests each; fewer makes the worst wait of one with many shorter."""


class Waiting:
    """The sequences without a row."""

    def __init__(self) -> None:
        self._preempted: deque[Sequence] = deque()
        self._new: deque[Sequence] = deque()
        """By age, the oldest first."""

    def __len__(self) -> int:
        return len(self._preempted) + len(self._new)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._preempted or sequence in self._new

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""
        self._new.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Let one wait that ran, and was admitted before all that were put back already."""
        self._preempted.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget one that waits."""
        (self._preempted if sequence in self._preempted else self._new).remove(sequence)

    def next(self, running: Iterable[Sequence]) -> Sequence:
        """Whose turn it is beside those that run; somebody must be waiting."""
        if self._preempted:
            return self._preempted[0]
        oldest = self._new[0]
        if oldest.times_passed >= PATIENCE:
            return oldest
        rows = Counter(sequence.prompt.adapter for sequence in running)
        return min(self._new, key=lambda sequence: rows[sequence.prompt.adapter])  # of equals, the first is the oldest

    def admit(self, sequence: Sequence) -> None:
        """Let go of one that gets a row; the oldest remembers that it was passed."""
        if self._new and sequence not in self._preempted and sequence is not self._new[0]:
            self._new[0].times_passed += 1
        self.remove(sequence)

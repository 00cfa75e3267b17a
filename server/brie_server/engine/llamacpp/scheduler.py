"""Decides what each step computes: admission, turns, chunked prompts, preemption. It knows no llama.cpp and no clock.

llama.cpp applies one adapter to all tokens of a decode, so each step belongs to one adapter, or to the base: a group.
Groups take turns, and whoever runs keeps its place between them: the keys and values in a place are named for the
adapter that they were computed with, and no other ever reads them. The rules, in the order `plan` applies them:

1. If the running sequences have outgrown the cache, the youngest goes back to the head of the queue, until they fit.
   One sequence alone always fits.
2. The oldest waiting sequence is admitted while a place is free, and tokens for it and for its next ones. What another
   place holds of its beginning, computed with the same adapter, is not computed again.
3. A group's turn lasts until it has nothing to do, or for `turn` steps if others wait; next is who waited longest.
4. A step computes one token for each sequence of the group that decodes, and the oldest prompts not yet computed, up to
   `chunk_size` tokens, so that a long prompt does not stall the answers that are already streaming.
5. Free places forget what they hold, least recently used first, until the step fits.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from brie_core.errors import Overloaded
from brie_server.engine.base import Token
from brie_server.engine.llamacpp.sequence import Place, Sequence, common_length, place_of

ROOM = 64
"""Tokens a newcomer must be able to grow before the cache may be full: else somebody would be preempted at once."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A newcomer's place, before the step: it gets the first `keep` tokens of `source`, and nothing else."""

    place: int
    source: int
    """May be the place itself."""
    keep: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one sequence to compute."""

    sequence: Sequence
    place: int
    start: int
    """Position of its first token."""
    token_ids: SequenceOf[int]
    samples: bool
    """Whether these are the last tokens known, so that a new one follows."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine does next: the seats, then the emptying, then the chunks in one decode."""

    adapter: str | None
    seats: tuple[Seat, ...]
    emptied: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a scheduler takes on."""

    max_places: int = 16
    """Sequences that run at once."""
    max_waiting: int = 256
    """Sequences that wait beyond those before a further one is turned away."""
    chunk_size: int = 256
    """Prompt tokens in one step: more is faster for the prompt and slower for all others meanwhile."""
    turn: int = 8
    """Steps that a group may take while another waits."""

    @property
    def max_requests(self) -> int:
        """Sequences that run or wait."""
        return self.max_places + self.max_waiting

    @property
    def largest_step(self) -> int:
        """Tokens that one step may hold."""
        return self.max_places + self.chunk_size


class Scheduler:
    """Owns the queue, the places and the running sequences; `plan` and `advance` alternate."""

    def __init__(self, limits: Limits, *, num_cells: int, reuses: bool = True) -> None:
        """`num_cells` is the size of the cache in tokens; `reuses` says whether a part of a place can be kept."""
        self._limits, self._num_cells, self._reuses = limits, num_cells, reuses
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._free = [Place(number) for number in range(limits.max_places)]
        self._emptied: list[int] = []
        self._clock = 0
        self._group: str | None = None
        self._turn_began = 0
        self._served: dict[str | None, int] = {}
        """When each group that runs had its last step, or joined."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    @property
    def num_running(self) -> int:
        """Sequences that hold a place."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; raises Overloaded when places and queue are full."""
        most = self._limits.max_requests
        if self.num_running + self.num_waiting >= most:
            raise Overloaded(f"{most} requests are in progress, which is all that is taken at once: try again soon.")
        self._waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is; one that is unknown or finished is no error."""
        if sequence in self._running:
            self._leave(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def rest(self) -> None:
        """Nothing to do: the cache stays, and what it holds may be the next prompt's beginning."""

    def forget(self, adapter: str) -> None:
        """Nothing that was computed with this adapter is used again."""
        for place in self._free:
            if place.adapter == adapter:
                self._empty(place)

    def forget_all(self) -> None:
        """Nothing that was computed so far is used again."""
        for place in self._free:
            self._empty(place)

    def plan(self) -> Step | None:
        """The next step, or None when there is nothing to compute."""
        self._clock += 1
        while self._num_known() > self._num_cells:
            self._preempt_youngest()
        seats = tuple(self._admit())
        if not self._running:
            return None
        group = self._on_turn()
        chunks = tuple(self._chunks(group))
        self._make_room(sum(len(chunk.token_ids) for chunk in chunks))
        emptied, self._emptied = tuple(self._emptied), []
        return Step(group, seats, emptied, chunks)

    def advance(self, step: Step, token_ids: SequenceOf[int | None]) -> list[tuple[Sequence, Token | None]]:
        """Take the sampled tokens of a step, in the order of its sampling chunks; the finished leave their places.

        None stands for a sequence that no token could be chosen for: it leaves too, and its token is None here.
        """
        for chunk in step.chunks:
            chunk.sequence.num_computed = chunk.start + len(chunk.token_ids)
        answers: list[tuple[Sequence, Token | None]] = []
        sampling = (chunk.sequence for chunk in step.chunks if chunk.samples)
        for sequence, token_id in zip(sampling, token_ids, strict=True):
            token = None if token_id is None else sequence.append(token_id)
            answers.append((sequence, token))
            if token is None or token.finish:
                self._leave(sequence)
        return answers

    def _num_known(self) -> int:
        return sum(sequence.num_tokens for sequence in self._running)

    def _preempt_youngest(self) -> None:
        sequence = self._running[-1]
        self._leave(sequence)
        self._waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Give up the place, which goes on holding what was computed in it."""
        place = place_of(sequence)
        place.cached = sequence.token_ids[: sequence.num_computed]
        place.last_used = self._clock
        sequence.place, sequence.num_computed = None, 0
        self._running.remove(sequence)
        self._free.append(place)

    def _empty(self, place: Place) -> None:
        place.cached = []
        self._emptied.append(place.id)

    def _admit(self) -> Iterable[Seat]:
        """Rule 2."""
        while self._waiting and self._free:
            newcomer = self._waiting[0]
            needed = min(newcomer.num_tokens + ROOM, newcomer.most_tokens)
            if self._running and self._num_known() + needed > self._num_cells:
                return
            yield self._seat(self._waiting.popleft())

    def _seat(self, newcomer: Sequence) -> Seat:
        adapter = newcomer.prompt.adapter
        keep, source = self._longest_beginning(newcomer)
        place = self._place_for(keep, source)
        self._free.remove(place)
        seat = Seat(place.id, source.id if source else place.id, keep)
        place.adapter, place.cached = adapter, []
        if place.id in self._emptied:
            self._emptied.remove(place.id)  # being seated empties it, and what it gets then must stay
        newcomer.place, newcomer.num_computed = place, keep
        if all(sequence.prompt.adapter != adapter for sequence in self._running):
            self._served[adapter] = self._clock
        self._running.append(newcomer)
        return seat

    def _longest_beginning(self, newcomer: Sequence) -> tuple[int, Place | None]:
        """The place that holds most of the newcomer's tokens; the last one is always computed, for what follows it."""
        held = [(place, place.cached) for place in self._free]
        held += [(place_of(each), each.token_ids[: each.num_computed]) for each in self._running]
        found = (
            (min(common_length(tokens, newcomer.token_ids), newcomer.num_tokens - 1), place)
            for place, tokens in held
            if self._reuses and place.adapter == newcomer.prompt.adapter
        )
        keep, source = max(found, key=lambda pair: pair[0], default=(0, None))
        return (keep, source) if keep else (0, None)

    def _place_for(self, keep: int, source: Place | None) -> Place:
        """The source itself if it is free and the newcomer goes on from its end; else the one that loses least."""
        if source is not None and source in self._free and keep + 1 >= len(source.cached):
            return source
        return min(self._free, key=lambda place: (bool(place.cached), place.last_used))

    def _on_turn(self) -> str | None:
        """Rule 3."""
        groups = list(dict.fromkeys(sequence.prompt.adapter for sequence in self._running))
        goes_on = len(groups) == 1 or self._clock - self._turn_began < self._limits.turn
        if self._group not in groups or not goes_on:
            others = [group for group in groups if group != self._group]
            self._group = min(others or groups, key=lambda group: self._served[group])
            self._turn_began = self._clock
        self._served = {group: self._served[group] for group in groups}
        self._served[self._group] = self._clock
        return self._group

    def _chunks(self, group: str | None) -> Iterable[Chunk]:
        """Rule 4."""
        room = self._limits.chunk_size
        for sequence in self._running:
            if sequence.prompt.adapter != group:
                continue
            if sequence.num_uncomputed == 1:
                yield _chunk(sequence, 1)
            elif room:
                num_tokens = min(room, sequence.num_uncomputed)
                room -= num_tokens
                yield _chunk(sequence, num_tokens)

    def _make_room(self, num_tokens: int) -> None:
        """Rule 5."""
        computed = sum(sequence.num_computed for sequence in self._running)
        for place in sorted(self._free, key=lambda place: place.last_used):
            if computed + num_tokens + sum(len(each.cached) for each in self._free) <= self._num_cells:
                return
            if place.cached:
                self._empty(place)


def _chunk(sequence: Sequence, num_tokens: int) -> Chunk:
    start, end = sequence.num_computed, sequence.num_computed + num_tokens
    tokens = sequence.token_ids[start:end]
    return Chunk(sequence, place_of(sequence).id, start, tokens, samples=end == sequence.num_tokens)

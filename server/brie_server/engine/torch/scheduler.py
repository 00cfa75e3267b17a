"""Decides what each step computes: admission, chunked prefill, preemption. It knows no tensors, no clock, no thread.

The cache is a rectangle of rows x capacity tokens within a budget. The rules, in the order `plan` applies them:

1. A running sequence that grew past the rectangle makes it longer. If that does not fit, the youngest running sequence
   goes back to wait before all others, until it fits. One sequence alone always fits.
2. The rows in use are 0 to n-1: who sits above a freed row moves down into it.
3. The waiting sequence whose turn it is is admitted while a row more, at the length that all of them will soon need,
   fits; none passes it. Turns (`waiting`): first those that were sent back; then the oldest of the adapter with the
   fewest rows; but the oldest of all once it was passed so often.
4. A step computes one token for each sequence that decodes, and a limited number of tokens of prompts, oldest first, so
   that a long prompt does not stall the answers that are already streaming. Whoever has tokens in the cache is in it.
5. A prompt begins where the kept blocks of earlier prompts end (`prefix`), and leaves its own blocks behind. One whose
   logprobs are wanted begins at its beginning, because they come with the computing. So does a text that is embedded,
   and it leaves no block: nobody goes on from it.

Running sequences were admitted before all waiting ones, so the first of them always makes progress; and each that waits
is admitted after a bounded number of others. Nobody starves.
"""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from brie_core.errors import Overloaded
from brie_server.engine.base import Embedding, Token
from brie_server.engine.torch.prefix import BLOCK, PrefixIndex
from brie_server.engine.torch.sequence import Sequence, row_of
from brie_server.engine.torch.step import Chunk, Keep, Move, Rectangle, Restore, Step, in_order
from brie_server.engine.torch.waiting import Waiting

ROOM = 64
"""Tokens a newcomer must be able to grow before the rectangle may be full: else it would be preempted at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a scheduler takes on."""

    max_rows: int = 32
    """Sequences that run at once."""
    max_waiting: int = 256
    """Sequences that wait beyond those before a further one is turned away."""
    chunk_size: int = 256
    """Tokens of prompts in one step: more is faster for the prompts and slower for all others meanwhile."""
    smallest_capacity: int = 256
    """The least length of the rectangle; it doubles from there."""
    reserved_rows: int = 1
    reserved_capacity: int = 1
    """The rectangle is at least this large, if that fits: where only what is written takes memory, growing is dear."""
    max_blocks: int = 512
    """Blocks of keys and values that are kept for later prompts."""

    @property
    def max_requests(self) -> int:
        """Sequences that run or wait."""
        return self.max_rows + self.max_waiting


class Scheduler:
    """Owns the queue and the running sequences; `plan` and `advance` alternate."""

    def __init__(self, limits: Limits, *, token_budget: int, context_length: int) -> None:
        if token_budget < context_length:
            raise ValueError(f"a budget of {token_budget} tokens cannot hold one context of {context_length}")
        self._limits = limits
        self._token_budget = token_budget
        self._context_length = context_length
        self._waiting = Waiting()
        self._running: list[Sequence] = []
        """In the order of admission."""
        self._rectangle = Rectangle()
        self._prefixes = PrefixIndex(limits.max_blocks)
        self._dropped: tuple[int, ...] = ()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    @property
    def running(self) -> SequenceOf[Sequence]:
        """The sequences that hold a row, in the order of admission."""
        return self._running

    @property
    def num_running(self) -> int:
        """Sequences that hold a row."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a row."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; raises Overloaded when rows and queue are full."""
        most = self._limits.max_requests
        if self.num_running + self.num_waiting >= most:
            raise Overloaded(f"{most} requests are in progress, which is all that is taken at once: try again soon.")
        self._waiting.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is; one that is unknown or finished is no error."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def plan(self) -> Step | None:
        """The next step, or None when there is nothing to compute."""
        while not self._fits(self._need(self._running)):
            self._preempt_youngest()
        moves = tuple(self._compact())
        self._admit()
        self._rectangle = self._reshaped(self._need(self._running))
        if not self._running:
            return None
        restores = tuple(self._restore())
        chunks = tuple(sorted(self._chunks(), key=in_order))
        keeps = tuple(keep for chunk in chunks for keep in self._keeps(chunk))
        dropped, self._dropped = self._dropped + self._prefixes.drop_excess(), ()
        return Step(moves, self._rectangle, chunks, restores, keeps, dropped)

    def rest(self) -> None:
        """Nothing runs, and the cache is given back: the next one begins small."""
        self._rectangle = Rectangle()

    def forget(self, adapter: str) -> None:
        """Keep nothing of an adapter any longer; the next step drops its blocks."""
        self._dropped += self._prefixes.drop_adapter(adapter)

    def forget_all(self) -> None:
        """Keep nothing any longer: the cache, and all blocks, have been lost."""
        self._prefixes.clear()
        self._dropped = ()

    def advance(self, step: Step, token_ids: SequenceOf[int | None]) -> list[tuple[Sequence, Token | Embedding | None]]:
        """Take the sampled tokens of a step, in the order of `step.sampling`; the finished leave their rows.

        None stands for a sequence that no token could be chosen for: it leaves too, and its token is None here.
        """
        for chunk in step.chunks:
            chunk.sequence.num_computed = chunk.end
        answers: list[tuple[Sequence, Token | Embedding | None]] = []
        for sequence in step.embedded:
            answers.append((sequence, sequence.embedding()))
            self._running.remove(sequence)
        for sequence, token_id in zip(step.sampling, token_ids, strict=True):
            token = None if token_id is None else sequence.append(token_id)
            answers.append((sequence, token))
            if token is None or token.finish:
                self._running.remove(sequence)
        return answers

    def _preempt_youngest(self) -> None:
        sequence = self._running.pop()
        sequence.restart()
        self._waiting.put_back(sequence)

    def _compact(self) -> Iterable[Move]:
        """Rule 2; `_running` keeps its order."""
        free = sorted(set(range(len(self._running))) - {row_of(sequence) for sequence in self._running})
        above = [sequence for sequence in self._running if row_of(sequence) >= len(self._running)]
        for sequence, target in zip(above, free, strict=True):
            if sequence.num_computed:
                yield Move(row_of(sequence), target, sequence.num_computed)
            sequence.row = target

    def _admit(self) -> None:
        """Rule 3."""
        while self._waiting and len(self._running) < self._limits.max_rows:
            newcomer = self._waiting.next(self._running)
            if not self._fits(self._need([*self._running, newcomer], ROOM)):
                return
            self._waiting.admit(newcomer)
            newcomer.row = len(self._running)
            self._running.append(newcomer)

    def _restore(self) -> Iterable[Restore]:
        """Rule 5, for the prompts that begin in this step."""
        room = self._limits.chunk_size
        for sequence in self._running:
            if sequence.num_uncomputed > 1 and room > 0:
                if not sequence.num_computed and (blocks := self._match(sequence)):
                    sequence.num_computed = len(blocks) * BLOCK
                    yield Restore(row_of(sequence), blocks)
                room -= sequence.num_uncomputed

    def _match(self, sequence: Sequence) -> tuple[int, ...]:
        if sequence.wants_prompt_logprobs or sequence.embeds:
            return ()
        return self._prefixes.match(sequence.prompt.adapter, sequence.token_ids)

    def _chunks(self) -> Iterable[Chunk]:
        """Rule 4."""
        room = self._limits.chunk_size
        for sequence in self._running:
            num_tokens = 1 if sequence.num_uncomputed == 1 else min(sequence.num_uncomputed, room)
            if num_tokens:
                samples = num_tokens == sequence.num_uncomputed and not sequence.embeds
                yield Chunk(sequence, sequence.num_computed, num_tokens, samples)
            room -= num_tokens if sequence.num_uncomputed > 1 else 0

    def _keeps(self, chunk: Chunk) -> Iterable[Keep]:
        sequence = chunk.sequence
        if chunk.start // BLOCK < chunk.end // BLOCK and not sequence.embeds:
            for block, start in self._prefixes.keep(
                sequence.prompt.adapter, sequence.token_ids[: chunk.end], chunk.start
            ):
                yield Keep(row_of(sequence), start, block)

    def _fits(self, need: Rectangle) -> bool:
        return need.num_tokens <= self._token_budget

    def _need(self, sequences: list[Sequence], room: int = 0) -> Rectangle:
        """The smallest rectangle these can use, each `room` tokens longer if it may grow so long."""
        longest = max((min(each.num_tokens + room, each.most_tokens) for each in sequences), default=0)
        capacity = max(_power_of_two(longest), self._limits.smallest_capacity)
        return Rectangle(len(sequences), min(capacity, self._context_length))

    def _reshaped(self, need: Rectangle) -> Rectangle:
        """The present rectangle as long as it is enough; else the roomiest that fits, so that growing is rare."""
        now = self._rectangle
        if not need.rows:
            return Rectangle()
        if now.covers(need):
            return now
        rows, capacity = min(_power_of_two(need.rows), self._limits.max_rows), max(now.capacity, need.capacity)
        most = Rectangle(
            max(now.rows, rows, min(self._limits.reserved_rows, self._limits.max_rows)),
            max(capacity, min(self._limits.reserved_capacity, self._context_length)),
        )
        roomy = (most, Rectangle(max(now.rows, rows), capacity), Rectangle(rows, capacity))
        return next((each for each in roomy if self._fits(each)), need)


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()

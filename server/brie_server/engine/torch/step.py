"""What one step of the engine is: the scheduler's decisions as plain data. It knows no rule and no tensor."""

from dataclasses import dataclass

from brie_server.engine.torch.sequence import Sequence, row_of


@dataclass(frozen=True, slots=True)
class Rectangle:
    """The shape of the cache, in sequences and in tokens for each."""

    rows: int = 0
    capacity: int = 0

    @property
    def num_tokens(self) -> int:
        """Its area."""
        return self.rows * self.capacity

    def covers(self, other: "Rectangle") -> bool:
        """Whether `other` fits inside."""
        return self.rows >= other.rows and self.capacity >= other.capacity


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next tokens of one sequence to compute."""

    sequence: Sequence
    start: int
    """Position of its first token."""
    num_tokens: int
    samples: bool
    """Whether these are the last tokens known and a new one is to follow."""

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + self.num_tokens

    @property
    def scored(self) -> range:
        """The positions whose logits are wanted for the prompt's logprobs: those before the tokens that miss theirs.

        What a sequence that was preempted computes again is not scored again.
        """
        if not self.sequence.wants_prompt_logprobs:
            return range(0)
        first = len(self.sequence.prompt_logprobs) - 1
        return range(max(first, self.start), min(self.end, len(self.sequence.prompt.token_ids) - 1))


@dataclass(frozen=True, slots=True)
class Move:
    """A sequence that changes its row before the step."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Kept blocks that become the beginning of a row before the step."""

    row: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """A stretch of a row to be kept as a block after the step."""

    row: int
    start: int
    block: int


@dataclass(frozen=True, slots=True)
class Step:
    """What the engine does next: moves, rectangle, restores, chunks, what is kept of them, and what no longer is."""

    moves: tuple[Move, ...]
    rectangle: Rectangle
    chunks: tuple[Chunk, ...]
    """Those of one token first, by adapter, then the longer ones by row."""
    restores: tuple[Restore, ...] = ()
    keeps: tuple[Keep, ...] = ()
    dropped: tuple[int, ...] = ()
    """Blocks to be forgotten at the end."""

    @property
    def sampling(self) -> tuple[Sequence, ...]:
        """The sequences that get a new token."""
        return tuple(chunk.sequence for chunk in self.chunks if chunk.samples)

    @property
    def only_decodes(self) -> bool:
        """Whether each chunk is one token that another follows, and no logits but theirs are wanted."""
        return all(chunk.num_tokens == 1 and chunk.samples and not chunk.scored for chunk in self.chunks)

    @property
    def embedded(self) -> tuple[Sequence, ...]:
        """The sequences whose embedding is complete with this step."""
        ends = ((chunk.sequence, chunk.end) for chunk in self.chunks if chunk.sequence.embeds)
        return tuple(sequence for sequence, end in ends if end == sequence.num_tokens)


def in_order(chunk: Chunk) -> tuple[bool, str, int]:
    """A step's order: single tokens of one adapter meet it in one product; prompts in adjacent rows attend in one."""
    adapter = "" if chunk.num_tokens > 1 else chunk.sequence.prompt.adapter or ""
    return chunk.num_tokens > 1, adapter, row_of(chunk.sequence)

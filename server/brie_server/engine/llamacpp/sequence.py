"""One request's state on its way through the engine. It knows tokens and places, and nothing of llama.cpp."""

from dataclasses import dataclass, field
from random import Random

from brie_server.engine.base import Constraint, FinishReason, Logprobs, Prompt, Token
from brie_server.engine.constraints import completes, constraint_for
from brie_server.engine.occurrences import Occurrences, occurrences_for


@dataclass(eq=False, slots=True)
class Place:
    """A row of llama.cpp's cache: what it calls a sequence id."""

    id: int
    adapter: str | None = None
    """With which the cached tokens were computed; to any other they are worthless."""
    cached: list[int] = field(default_factory=list)
    """The tokens whose keys and values it holds, while nobody runs in it."""
    last_used: int = 0
    """A counter: larger is more recent."""


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and what was generated for it so far; two sequences are never equal, whatever they hold."""

    prompt: Prompt
    token_ids: list[int] = field(init=False)
    """Prompt and answer."""
    num_computed: int = field(init=False, default=0)
    """How many of the tokens have their keys and values in the cache."""
    place: Place | None = field(init=False, default=None)
    """Where it runs; None while it waits."""
    random: Random = field(init=False)
    """Its own source of chance, so that what runs beside it cannot change its answer."""
    occurrences: Occurrences | None = field(init=False)
    """What its penalties look at; None where it has none."""
    constraint: Constraint | None = field(init=False)
    """What its answer is held to; it has seen the answer so far, and stays when the sequence must begin again."""
    logprobs: Logprobs | None = field(init=False, default=None)
    """What the runner found for the next token, where the prompt asks for it."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt.token_ids)
        self.random = Random(self.prompt.sampling.seed)
        self.occurrences = occurrences_for(self.prompt)
        self.constraint = constraint_for(self.prompt)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.token_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens not yet in the cache; 1 for a sequence that decodes."""
        return self.num_tokens - self.num_computed

    @property
    def most_tokens(self) -> int:
        """Tokens of prompt and answer at the end, if nothing stops it before."""
        return len(self.prompt.token_ids) + self.prompt.max_tokens

    @property
    def forbidden_ids(self) -> frozenset[int]:
        """The ids that would end the answer too early."""
        num_generated = self.num_tokens - len(self.prompt.token_ids)
        return self.prompt.stop_ids if num_generated < self.prompt.min_tokens else frozenset()

    def append(self, token_id: int) -> Token:
        """Take the next token of the answer and decide whether it is the last."""
        self.token_ids.append(token_id)
        if self.occurrences:
            self.occurrences.add(token_id)
        if token_id in self.prompt.stop_ids:
            return Token(token_id, FinishReason.STOP, self.logprobs)
        if completes(self.constraint, token_id):
            return Token(token_id, FinishReason.STOP, self.logprobs, completes=True)
        return Token(token_id, FinishReason.LENGTH if self.num_tokens >= self.most_tokens else None, self.logprobs)


def place_of(sequence: Sequence) -> Place:
    """The place of a sequence that runs."""
    if sequence.place is None:
        raise RuntimeError("a sequence that does not run has no place")
    return sequence.place


def common_length(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

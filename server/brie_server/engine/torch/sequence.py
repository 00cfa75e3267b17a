"""One request's state on its way through the engine. It knows tokens and rows, and nothing of tensors or threads."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from operator import add
from random import Random

from brie_server.engine.base import Constraint, Embedding, FinishReason, Logprobs, Prompt, Token
from brie_server.engine.constraints import completes, constraint_for
from brie_server.engine.occurrences import Occurrences, occurrences_for


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and what was generated for it so far; two sequences are never equal, whatever they hold."""

    prompt: Prompt
    token_ids: list[int] = field(init=False)
    """Prompt and answer."""
    num_computed: int = field(init=False, default=0)
    """How many of the tokens have their keys and values in the cache."""
    row: int | None = field(init=False, default=None)
    """Its row in the cache while it runs."""
    times_passed: int = field(init=False, default=0)
    """How often a younger one was admitted while it was the oldest that waited."""
    finish: FinishReason | None = field(init=False, default=None)
    random: Random = field(init=False)
    """Its own source of chance, so that what runs beside it cannot change its answer."""
    occurrences: Occurrences | None = field(init=False)
    """What its penalties look at; None where it has none."""
    constraint: Constraint | None = field(init=False)
    """What its answer is held to; it has seen the answer so far, and stays when the sequence must begin again."""
    logprobs: Logprobs | None = field(init=False, default=None)
    """What the runner found for the next token, where the prompt asks for it."""
    prompt_logprobs: list[Logprobs | None] = field(init=False)
    """The same for the tokens of the prompt, as far as they are computed; nothing is known of the first."""
    hidden_sum: list[float] = field(init=False, default_factory=list)
    """Where it embeds, the sum of its tokens' last hidden states, as far as they are computed; empty before that."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt.token_ids)
        self.random = Random(self.prompt.sampling.seed)
        self.occurrences = occurrences_for(self.prompt)
        self.constraint = constraint_for(self.prompt)
        self.prompt_logprobs = [None]

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return self.num_tokens - len(self.prompt.token_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens not yet in the cache; 1 for a sequence that decodes."""
        return self.num_tokens - self.num_computed

    @property
    def most_tokens(self) -> int:
        """Tokens of prompt and answer at the end, if nothing stops it before."""
        return len(self.prompt.token_ids) + self.prompt.max_tokens

    @property
    def embeds(self) -> bool:
        """Whether its hidden states are all that is wanted, and no token follows."""
        return self.prompt.max_tokens == 0

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether tokens of the prompt still miss theirs."""
        return self.prompt.prompt_logprobs is not None and len(self.prompt_logprobs) < len(self.prompt.token_ids)

    @property
    def adjusts(self) -> bool:
        """Whether something is to be done to its logits before a token is chosen."""
        return bool(self.occurrences or self.prompt.sampling.logit_bias or self.forbidden_ids or self.constraint)

    @property
    def forbidden_ids(self) -> frozenset[int]:
        """The ids that would end the answer too early."""
        return self.prompt.stop_ids if self.num_generated < self.prompt.min_tokens else frozenset()

    def append(self, token_id: int) -> Token:
        """Take the next token of the answer and decide whether it is the last."""
        self.token_ids.append(token_id)
        if self.occurrences:
            self.occurrences.add(token_id)
        stops = token_id in self.prompt.stop_ids
        is_complete = not stops and completes(self.constraint, token_id)
        if stops or is_complete:
            self.finish = FinishReason.STOP
        elif self.num_generated >= self.prompt.max_tokens:
            self.finish = FinishReason.LENGTH
        first = self.num_generated == 1 and self.prompt.prompt_logprobs is not None
        of_prompt = tuple(self.prompt_logprobs) if first else None
        return Token(token_id, self.finish, self.logprobs, of_prompt, is_complete)

    def add_hidden(self, values: Iterable[float]) -> None:
        """Take the sum of the hidden states of its next tokens."""
        self.hidden_sum = list(map(add, self.hidden_sum or repeat(0.0), values))

    def embedding(self) -> Embedding | None:
        """What it is told once all its tokens are computed; None where that is not finite."""
        mean = tuple(total / self.num_tokens for total in self.hidden_sum)
        return mean if all(map(math.isfinite, mean)) else None

    def restart(self) -> None:
        """Give up the row; all tokens so far, and the random state, stay and are computed again."""
        self.num_computed, self.row, self.hidden_sum = 0, None, []


def row_of(sequence: Sequence) -> int:
    """The row of a sequence that runs."""
    if sequence.row is None:
        raise RuntimeError("a sequence that does not run has no row")
    return sequence.row

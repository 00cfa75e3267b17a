"""Token ids with what is learnt of them, and how they are cut. It knows no tokenizer and no framework."""

from collections.abc import Sequence
from dataclasses import dataclass

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence to train on; `labels` has IGNORED where nothing is learnt, and the length of `input_ids`."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_trained(self) -> int:
        """Tokens that the loss counts."""
        return sum(label != IGNORED for label in self.labels)

    @property
    def num_prompt(self) -> int:
        """Tokens before the first that is learnt."""
        return next((at for at, label in enumerate(self.labels) if label != IGNORED), len(self.labels))

    def truncated(self, max_length: int) -> "Example":
        """The beginning, at most `max_length` tokens."""
        return Example(self.input_ids[:max_length], self.labels[:max_length])

    @property
    def sequences(self) -> Sequence["Example"]:
        """Itself: what a model is run over."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt: both begin with the same prompt ids, and only the answers are labelled."""

    chosen: Example
    rejected: Example

    def truncated(self, max_length: int) -> "Pair":
        """Both answers cut at their ends; the prompt stays whole, or no answer is left."""
        return Pair(self.chosen.truncated(max_length), self.rejected.truncated(max_length))

    @property
    def sequences(self) -> Sequence[Example]:
        """Both."""
        return (self.chosen, self.rejected)

    @property
    def num_trained(self) -> int:
        """Tokens of both answers; 0 if they are the same, of which nothing can be learnt."""
        if self.chosen.input_ids == self.rejected.input_ids:
            return 0
        return self.chosen.num_trained + self.rejected.num_trained


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer to make more likely, or less."""

    example: Example
    desirable: bool

    def truncated(self, max_length: int) -> "Rated":
        """The answer cut at its end."""
        return Rated(self.example.truncated(max_length), self.desirable)

    @property
    def sequences(self) -> Sequence[Example]:
        """The one."""
        return (self.example,)

    @property
    def num_trained(self) -> int:
        """Tokens of the answer."""
        return self.example.num_trained


@dataclass(slots=True)
class TokenCounts:
    """What a set of examples holds, pairs with both their sequences; a report, so it is filled as they are made."""

    examples: int = 0
    tokens: int = 0
    trained: int = 0
    truncated: int = 0
    """Tokens cut off by the maximum length."""
    dropped: int = 0
    """Examples of which nothing was left to learn."""
    longest: int = 0
    """Tokens of the longest sequence, as it is trained."""
    cut: int = 0
    """Examples that were cut, and kept."""

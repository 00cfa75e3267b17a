"""Scores items without touching the model: for validation, and for what a reference says. It never ends a run.

Loss only, micro-batches bounded by tokens, logits only where a label is: evaluation is what runs out of memory first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_trainer.data.examples import Example
from brie_trainer.training.batches import collate, micro_batches
from brie_trainer.training.job_rows import Item
from brie_trainer.training.memory_errors import OutOfMemory, give_back, within_memory
from brie_trainer.training.model import LoraModel, Scores
from brie_trainer.training.objective import per_sequence

Halved = Callable[[int], None]
"""Told the smaller number of tokens that a micro-batch may have from now on."""


@dataclass(slots=True)
class Scorer:
    """Forward passes over items under a budget that shrinks when memory runs out."""

    model: LoraModel
    token_cap: int
    halved: Halved
    check: Callable[[], None]
    """Called before every micro-batch; what it raises ends the pass."""

    def passes(self, items: Sequence[Item]) -> Iterator[tuple[list[int], Scores | None]]:
        """Numbers of items with their scores; None for an item that does not fit even alone."""
        waiting = micro_batches([length_of(item) for item in items], self.token_cap)
        while waiting:
            group = waiting.pop()
            self.check()
            scores = self._score([sequence for number in group for sequence in items[number].sequences])
            if scores is None and len(group) > 1:
                self._halve(sum(length_of(items[number]) for number in group))
                middle = len(group) // 2
                waiting += [group[:middle], group[middle:]]
                continue
            yield group, scores

    def answers(self, items: Sequence[Item]) -> Tensor:
        """The log-probability of every answer, of shape (len(items), sequences per item)."""
        found = torch.zeros(len(items), len(items[0].sequences))
        for group, scores in self.passes(items):
            if scores is None:
                raise OutOfMemory("the reference cannot be computed: one example alone is too long for the memory")
            width = found.shape[1]
            found[group] = per_sequence(scores, len(group) * width).view(-1, width).cpu()
        return found

    def _halve(self, tokens: int) -> None:
        self.token_cap = max(tokens // 2, 1)
        self.halved(self.token_cap)

    def _score(self, sequences: Sequence[Example]) -> Scores | None:
        def attempt() -> Scores:
            with torch.no_grad():
                return self.model.score(collate(sequences), training=False)

        scores = within_memory(attempt)
        if scores is None:
            give_back(self.model.device)
        return scores


def length_of(item: Item) -> int:
    """Tokens that an item takes in a micro-batch."""
    return sum(len(sequence.input_ids) for sequence in item.sequences)

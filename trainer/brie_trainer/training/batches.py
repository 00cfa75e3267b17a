"""Token sequences to tensors, in micro-batches of bounded size. It knows no model.

Sequences stand end to end, without padding: whatever works token by token works on all of them at once, and attention
is told where one ends and the next begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_trainer.data.examples import IGNORED, Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of S tokens in all, of which N are labelled."""

    ids_S: Tensor
    positions_S: Tensor
    """Each sequence counts from 0."""
    lengths: tuple[int, ...]
    """Tokens of each sequence, in order."""
    before_N: Tensor
    """Where the hidden state stands that a label is predicted from."""
    labels_N: Tensor
    rows_N: Tensor
    """Which sequence a label belongs to."""

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        ids_S, positions_S = self.ids_S.to(device), self.positions_S.to(device)
        picked = (tensor.to(device) for tensor in (self.before_N, self.labels_N, self.rows_N))
        return Batch(ids_S, positions_S, self.lengths, *picked)


def collate(examples: Sequence[Example]) -> Batch:
    """End to end; a label on a sequence's first token has nothing to be predicted from, and counts for nothing."""
    lengths = [len(example.input_ids) for example in examples]
    labels_S = torch.tensor([label for example in examples for label in (*example.labels[1:], IGNORED)])
    before_N = (labels_S != IGNORED).nonzero()[:, 0]
    row_of_S = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return Batch(
        ids_S=torch.tensor([token for example in examples for token in example.input_ids]),
        positions_S=torch.cat([torch.arange(length) for length in lengths]),
        lengths=tuple(lengths),
        before_N=before_N,
        labels_N=labels_S[before_N],
        rows_N=row_of_S[before_N],
    )


def micro_batches(lengths: Sequence[int], token_cap: int) -> list[list[int]]:
    """Numbers of items, similar lengths together; a group has at most `token_cap` tokens, or one item."""
    groups: list[list[int]] = []
    room = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[number] <= room:
            groups[-1].append(number)
        else:
            groups.append([number])
            room = token_cap
        room -= lengths[number]
    return groups

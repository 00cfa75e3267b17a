"""Token sequences to tensors, in micro-batches of bounded size. It knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_trainer.examples import IGNORED, Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded sequences, each (batch, longest)."""

    ids_BT: Tensor
    labels_BT: Tensor
    mask_BT: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(self.ids_BT.to(device), self.labels_BT.to(device), self.mask_BT.to(device))


def collate(examples: Sequence[Example]) -> Batch:
    """Pad to the longest."""
    longest = max(len(example.input_ids) for example in examples)
    ids = [example.input_ids + [0] * (longest - len(example.input_ids)) for example in examples]
    labels = [example.labels + [IGNORED] * (longest - len(example.labels)) for example in examples]
    mask = [[1] * len(example.input_ids) + [0] * (longest - len(example.input_ids)) for example in examples]
    return Batch(torch.tensor(ids), torch.tensor(labels), torch.tensor(mask))


def micro_batches(lengths: Sequence[int], token_cap: int) -> list[list[int]]:
    """Numbers of items, similar lengths together; a group has at most `token_cap` padded tokens, or one item."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[number] <= token_cap:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups

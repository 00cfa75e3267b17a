"""Loss and token accuracy of a model on held-out examples, weighted by tokens. It knows batches, not jobs.

Loss only, batches bounded by tokens, and logits only where a label is: evaluation is what runs out of memory first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Module

from brie_trainer.labels import IGNORED, Example

_TOKENS_PER_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over all labelled tokens."""

    loss: float
    accuracy: float
    tokens: int


def evaluate(model: Module, examples: Sequence[Example], device: torch.device) -> Evaluation:
    """Score `examples` without touching the model's state; it must carry TRL's fused head."""
    was_training = model.training
    model.eval()
    loss, hits, tokens = 0.0, 0, 0
    with torch.no_grad():
        for batch in _batches(examples):
            ids_BT, labels_BT, mask_BT = (tensor.to(device) for tensor in _pad(batch))
            output = model(input_ids=ids_BT, labels=labels_BT, attention_mask=mask_BT, fused_lm_head=True)
            loss -= float(output.log_probs.sum())
            hits += int(output.is_top1.sum())
            tokens += int(output.label_mask.sum())
    model.train(was_training)
    return Evaluation(loss / tokens, hits / tokens, tokens)


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Similar lengths together, each padded batch within the token budget (one example at the least)."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda example: len(example.input_ids)):
        if batch and (len(batch) + 1) * len(example.input_ids) > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def _pad(batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, labels and mask, each (batch, longest)."""
    longest = max(len(example.input_ids) for example in batch)
    ids = [example.input_ids + [0] * (longest - len(example.input_ids)) for example in batch]
    labels = [example.labels + [IGNORED] * (longest - len(example.labels)) for example in batch]
    mask = [[1] * len(example.input_ids) + [0] * (longest - len(example.input_ids)) for example in batch]
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(mask)

"""One step as tensors: which tokens, where in the cache, who sees what. It knows shapes, not what they are for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from brie_server.engine.torch.scheduler import Chunk, Step
from brie_server.engine.torch.sequence import row_of


@dataclass(frozen=True, slots=True)
class Decode:
    """The sequences that compute one token each; they are the first n of the step's N tokens."""

    rows_n: Tensor
    positions_n: Tensor
    token_of_row_R: Tensor
    """The token that sits in each row up to the highest; any token for a row that does not decode."""
    hidden_R11C: Tensor
    """True where a row's token must not look: at nothing of its own, or at what lies behind it."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """The one sequence that computes several tokens; they are the last of the step's N."""

    row: int
    start: int
    end: int
    hidden_nC: Tensor
    """True where a token must not look: at later ones."""


@dataclass(frozen=True, slots=True)
class Batch:
    """All tokens of a step, flat."""

    token_ids_N: Tensor
    positions_N: Tensor
    sampled_S: Tensor
    """The tokens after which a new one is sampled."""
    decode: Decode | None
    prefill: Prefill | None


def build_batch(step: Step, device: torch.device) -> Batch:
    """The tensors for a step, on the device."""
    token_ids = [token for each in step.chunks for token in each.sequence.token_ids[each.start : each.end]]
    positions = [position for each in step.chunks for position in range(each.start, each.end)]
    singles = [chunk for chunk in step.chunks if chunk.num_tokens == 1]
    several = [chunk for chunk in step.chunks if chunk.num_tokens > 1]
    return Batch(
        torch.tensor(token_ids, device=device),
        torch.tensor(positions, device=device),
        torch.tensor(_sampled(step), device=device, dtype=torch.long),
        _decode(singles, device) if singles else None,
        _prefill(several[0], device) if several else None,
    )


def _sampled(step: Step) -> list[int]:
    sampled, end = [], 0
    for chunk in step.chunks:
        end += chunk.num_tokens
        if chunk.samples:
            sampled.append(end - 1)
    return sampled


def _decode(singles: list[Chunk], device: torch.device) -> Decode:
    rows = [row_of(chunk.sequence) for chunk in singles]
    token_of_row, num_visible = [0] * (max(rows) + 1), [1] * (max(rows) + 1)
    for token, (row, chunk) in enumerate(zip(rows, singles, strict=True)):
        token_of_row[row], num_visible[row] = token, chunk.end
    visible_R1 = torch.tensor(num_visible, device=device)[:, None]
    hidden_RC = torch.arange(max(num_visible), device=device) >= visible_R1
    return Decode(
        torch.tensor(rows, device=device),
        torch.tensor([chunk.start for chunk in singles], device=device),
        torch.tensor(token_of_row, device=device),
        hidden_RC[:, None, None],
    )


def _prefill(chunk: Chunk, device: torch.device) -> Prefill:
    positions_C = torch.arange(chunk.end, device=device)
    hidden_nC = positions_C > positions_C[chunk.start :, None]
    return Prefill(row_of(chunk.sequence), chunk.start, chunk.end, hidden_nC)

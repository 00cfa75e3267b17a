"""What a request's bias, penalties, min_tokens and form do to logits. It knows no chance and no model.

Each is one operation for all rows of a step, on the numbers that it changes and no others. No id comes twice in a row,
so that what is written does not depend on an order.
"""

from array import array
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from itertools import repeat

import torch
from torch import Tensor

from brie_server.engine.base import Sampling
from brie_server.engine.constraints import allowed_tokens
from brie_server.engine.torch.sequence import Sequence


def adjust(logits_SV: Tensor, sequences: SequenceOf[Sequence]) -> None:
    """Change the logits in place, in the order that `Sampling` gives; what a form forbids stays forbidden."""
    rows = [row for row, sequence in enumerate(sequences) if sequence.adjusts]
    if rows:
        _add_bias(logits_SV, sequences, rows)
        _forbid_stops(logits_SV, sequences, rows)
        _penalize(logits_SV, sequences, rows)
        _constrain(logits_SV, sequences, rows)


def _add_bias(logits_SV: Tensor, sequences: SequenceOf[Sequence], rows: Iterable[int]) -> None:
    biases = [(row, *bias) for row in rows for bias in sequences[row].prompt.sampling.logit_bias]
    if biases:
        of_rows, ids, values = zip(*biases, strict=True)
        places = torch.tensor([of_rows, ids], device=logits_SV.device).unbind()
        logits_SV[places] += torch.tensor(values, device=logits_SV.device, dtype=logits_SV.dtype)


def _forbid_stops(logits_SV: Tensor, sequences: SequenceOf[Sequence], rows: Iterable[int]) -> None:
    stops = [(row, stop) for row in rows for stop in sequences[row].forbidden_ids if stop < logits_SV.shape[-1]]
    if stops:
        places = torch.tensor(stops, device=logits_SV.device).unbind(1)
        logits_SV[places] = float("-inf")


def _penalize(logits_SV: Tensor, sequences: SequenceOf[Sequence], rows: Iterable[int]) -> None:
    of_rows, ids, counts = array("q"), array("q"), array("f")
    for row in rows:
        if met := sequences[row].occurrences:
            of_rows.extend(repeat(row, len(met.ids)))
            ids.extend(met.ids)
            counts.extend(met.counts)
    if not ids:
        return
    rows_K, ids_K = (torch.frombuffer(each, dtype=torch.int64).to(logits_SV.device) for each in (of_rows, ids))
    counts_K = torch.frombuffer(counts, dtype=torch.float32).to(logits_SV.device)

    def each(value: Callable[[Sampling], float]) -> Tensor:
        values = [value(sequence.prompt.sampling) for sequence in sequences]
        return torch.tensor(values, device=logits_SV.device, dtype=logits_SV.dtype)[rows_K]

    repetition_K = each(lambda sampling: sampling.repetition_penalty)
    logits_K = logits_SV[rows_K, ids_K]
    logits_K = torch.where(logits_K > 0, logits_K / repetition_K, logits_K * repetition_K)
    logits_K -= each(lambda sampling: sampling.frequency_penalty) * counts_K
    logits_K -= each(lambda sampling: sampling.presence_penalty) * (counts_K > 0)
    logits_SV[rows_K, ids_K] = logits_K


def _constrain(logits_SV: Tensor, sequences: SequenceOf[Sequence], rows: Iterable[int]) -> None:
    held = [(row, each) for row in rows if (each := sequences[row].constraint)]
    if held:
        constrained = [(constraint, sequences[row].prompt.stop_ids) for row, constraint in held]
        allowed_RV = torch.from_numpy(allowed_tokens(constrained, logits_SV.shape[-1])).to(logits_SV.device)
        rows_R = torch.tensor([row for row, _ in held], device=logits_SV.device)
        logits_SV[rows_R] = logits_SV[rows_R].masked_fill_(~allowed_RV, float("-inf"))

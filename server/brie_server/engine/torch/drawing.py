"""Draws a token for each row from its logits: temperature, min_p, top_k, top_p and chance. It knows no model.

A row's token follows from its own logits, sampling and chance: what stands beside it changes nothing.
"""

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from brie_server.engine.base import Sampling
from brie_server.engine.torch.sequence import Sequence

_BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1: chance must not round up to the end of the distribution."""
_FEW = 256
"""Candidates among which top_k and top_p mostly end: finding them takes a fraction of the time of sorting all."""


def draw(logits_SV: Tensor, sequences: SequenceOf[Sequence]) -> Tensor:
    """Inverse of the cumulative distribution at one uniform number for each sequence. The logits are used up."""
    samplings = [each.prompt.sampling for each in sequences]
    chance_S1 = _column([min(each.random.random(), _BELOW_ONE) for each in sequences], logits_SV)
    logits_SV /= _column([each.temperature for each in samplings], logits_SV)
    probabilities_SV = torch.softmax(logits_SV, -1)
    if any(each.min_p > 0 for each in samplings):
        least_S1 = probabilities_SV.amax(-1, keepdim=True) * _column([each.min_p for each in samplings], logits_SV)
        probabilities_SV.masked_fill_(probabilities_SV < least_S1, 0)
    cut = [row for row, each in enumerate(samplings) if each.top_k > 0 or each.top_p < 1]
    if not cut:
        return _first_past(probabilities_SV.cumsum(-1), chance_S1)
    if len(cut) == len(samplings):
        return _draw_top(probabilities_SV, samplings, chance_S1)
    tokens_S = _first_past(probabilities_SV.cumsum(-1), chance_S1)
    rows_s = torch.tensor(cut, device=logits_SV.device)
    tokens_S[rows_s] = _draw_top(probabilities_SV[rows_s], [samplings[row] for row in cut], chance_S1[rows_s])
    return tokens_S


def _draw_top(probabilities_SV: Tensor, samplings: SequenceOf[Sampling], chance_S1: Tensor) -> Tensor:
    """Draw among the most probable tokens only: from a few where they are enough, else from all in order."""
    vocab_size = probabilities_SV.shape[-1]
    total_S1 = probabilities_SV.sum(-1, keepdim=True)
    sorted_SK, ids_SK = probabilities_SV.topk(min(_FEW, vocab_size))
    tokens_S = _draw_sorted(sorted_SK, ids_SK, total_S1, samplings, chance_S1)
    shares = (sorted_SK.sum(-1, keepdim=True) / total_S1)[:, 0].tolist()
    more = [row for row, (each, share) in enumerate(zip(samplings, shares, strict=True)) if not _is_enough(each, share)]
    if more and vocab_size > _FEW:
        rows_s = torch.tensor(more, device=probabilities_SV.device)
        sorted_sV, ids_sV = probabilities_SV[rows_s].sort(-1, descending=True)
        of_rows = [samplings[row] for row in more]
        tokens_S[rows_s] = _draw_sorted(sorted_sV, ids_sV, total_S1[rows_s], of_rows, chance_S1[rows_s])
    return tokens_S


def _is_enough(sampling: Sampling, share: float) -> bool:
    """Whether what a row keeps lies among a few tokens that hold this share of all."""
    return sampling.top_k <= _FEW if sampling.top_k else share > sampling.top_p


def _draw_sorted(
    sorted_SK: Tensor, ids_SK: Tensor, total_S1: Tensor, samplings: SequenceOf[Sampling], chance_S1: Tensor
) -> Tensor:
    """The share that top_p counts is one of what top_k leaves; the first token is always kept."""
    top_k_S1 = _column([each.top_k or float("inf") for each in samplings], sorted_SK)
    top_p_S1 = _column([each.top_p if each.top_p < 1 else float("inf") for each in samplings], sorted_SK)
    dropped_SK = torch.arange(sorted_SK.shape[-1], device=sorted_SK.device) >= top_k_S1
    kept_SK = sorted_SK.masked_fill(dropped_SK, 0)
    total_S1 = torch.where(top_k_S1.isinf(), total_S1, kept_SK.sum(-1, keepdim=True))
    dropped_SK = kept_SK.cumsum(-1) - kept_SK >= top_p_S1 * total_S1
    dropped_SK[:, 0] = False
    place_S = _first_past(kept_SK.masked_fill(dropped_SK, 0).cumsum(-1), chance_S1)
    return ids_SK.gather(-1, place_S[:, None])[:, 0]


def _first_past(cumulative_SV: Tensor, chance_S1: Tensor) -> Tensor:
    """The first place where the cumulative sum exceeds that share of its end: never one of probability zero."""
    return (cumulative_SV <= cumulative_SV[:, -1:] * chance_S1).sum(-1)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None]

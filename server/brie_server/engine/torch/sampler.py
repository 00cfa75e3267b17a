"""From logits to tokens, all sequences of a step at once. It knows each one's sampling and chance, no model."""

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from brie_server.engine.torch.sequence import Sequence

_GREEDY_BELOW = 1e-5
"""A temperature under which dividing by it would overflow float32."""
_BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1: chance must not round up to the end of the distribution."""


def sample(logits_SV: Tensor, sequences: SequenceOf[Sequence]) -> list[int | None]:
    """One token for each sequence; None where the logits hold NaN or infinity. `logits_SV` is float32.

    Chance is drawn from each sequence's own source and its distribution is its own row's, so that what runs beside a
    seeded request does not change its answer.
    """
    tokens_S = logits_SV.argmax(-1)
    random = [index for index, each in enumerate(sequences) if each.prompt.sampling.temperature >= _GREEDY_BELOW]
    if random:
        rows_s = torch.tensor(random, device=logits_SV.device)
        tokens_S[rows_s] = _draw(logits_SV[rows_s], [sequences[index] for index in random])
    # a row's sum is finite only if every number is, and takes a twentieth of the time of asking each
    tokens_S = tokens_S.where(logits_SV.sum(-1).isfinite(), -1)
    return [None if token < 0 else token for token in tokens_S.tolist()]


def _draw(logits_SV: Tensor, sequences: list[Sequence]) -> Tensor:
    """Inverse of the cumulative distribution at one uniform number for each sequence."""
    temperature_S1 = _column([each.prompt.sampling.temperature for each in sequences], logits_SV)
    chance_S1 = _column([min(each.random.random(), _BELOW_ONE) for each in sequences], logits_SV)
    probabilities_SV = torch.softmax(logits_SV / temperature_S1, -1)
    tokens_S = _first_past(probabilities_SV.cumsum(-1), chance_S1)
    cut = [index for index, each in enumerate(sequences) if each.prompt.sampling.top_p < 1]
    if cut:
        rows_s = torch.tensor(cut, device=logits_SV.device)
        top_p_s1 = _column([sequences[index].prompt.sampling.top_p for index in cut], logits_SV)
        tokens_S[rows_s] = _draw_top(probabilities_SV[rows_s], top_p_s1, chance_S1[rows_s])
    return tokens_S


def _draw_top(probabilities_SV: Tensor, top_p_S1: Tensor, chance_S1: Tensor) -> Tensor:
    """The same among the most probable tokens only; the first of them is always kept."""
    sorted_SV, tokens_SV = probabilities_SV.sort(-1, descending=True)
    before_SV = sorted_SV.cumsum(-1) - sorted_SV
    dropped_SV = before_SV >= top_p_S1
    dropped_SV[:, 0] = False
    place_S = _first_past(sorted_SV.masked_fill(dropped_SV, 0).cumsum(-1), chance_S1)
    return tokens_SV.gather(-1, place_S[:, None])[:, 0]


def _first_past(cumulative_SV: Tensor, chance_S1: Tensor) -> Tensor:
    """The first place where the cumulative sum exceeds that share of its end: never one of probability zero."""
    return (cumulative_SV <= cumulative_SV[:, -1:] * chance_S1).sum(-1)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None]

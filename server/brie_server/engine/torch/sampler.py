"""From logits to tokens, all sequences of a step at once. It knows each one's sampling and chance, no model."""

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from brie_server.engine.torch.adjustments import adjust
from brie_server.engine.torch.drawing import draw
from brie_server.engine.torch.logprobs import logprobs_of
from brie_server.engine.torch.sequence import Sequence

_GREEDY_BELOW = 1e-5
"""A temperature under which dividing by it would overflow float32."""


def sample(logits_SV: Tensor, sequences: SequenceOf[Sequence]) -> list[int | None]:
    """One token for each sequence; None where the logits hold NaN or infinity, or where no token is left.

    Chance is drawn from each sequence's own source and its distribution is its own row's, so that what runs beside a
    seeded request does not change its answer. Logprobs that were asked for are left with the sequences. `logits_SV` is
    float32, and used up.
    """
    # a row's sum is finite only if every number is, and takes a twentieth of the time of asking each
    finite_S = logits_SV.sum(-1).isfinite()
    asking = [row for row, each in enumerate(sequences) if each.prompt.logprobs is not None]
    raw_sV = logits_SV[torch.tensor(asking, device=logits_SV.device)] if asking else logits_SV[:0]
    adjust(logits_SV, sequences)
    tokens_S = _choose(logits_SV, sequences)
    # a forbidden token is chosen only where all are forbidden
    is_left_S = logits_SV.gather(-1, tokens_S[:, None])[:, 0] > float("-inf")
    tokens = tokens_S.where(finite_S & is_left_S, -1).tolist()
    _keep_logprobs(raw_sV, [sequences[row] for row in asking], [max(tokens[row], 0) for row in asking])
    return [None if token < 0 else token for token in tokens]


def _choose(logits_SV: Tensor, sequences: SequenceOf[Sequence]) -> Tensor:
    random = [row for row, each in enumerate(sequences) if each.prompt.sampling.temperature >= _GREEDY_BELOW]
    if random and len(random) == len(sequences):
        return draw(logits_SV, sequences)
    tokens_S = logits_SV.argmax(-1)
    if random:
        rows_s = torch.tensor(random, device=logits_SV.device)
        tokens_S[rows_s] = draw(logits_SV[rows_s], [sequences[row] for row in random])
    return tokens_S


def _keep_logprobs(raw_SV: Tensor, sequences: SequenceOf[Sequence], tokens: list[int]) -> None:
    numbers = [sequence.prompt.logprobs or 0 for sequence in sequences]
    for sequence, logprobs in zip(sequences, logprobs_of(raw_SV, tokens, numbers), strict=True):
        sequence.logprobs = logprobs

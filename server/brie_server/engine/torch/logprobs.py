"""What the model thought of tokens: logprob, rank and alternatives, from its raw logits. It knows no sampling."""

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from brie_server.engine.base import Logprobs
from brie_server.engine.torch.step import Chunk


def score_prompts(logits_PV: Tensor, chunks: SequenceOf[Chunk]) -> None:
    """Leave the logprobs of a step's prompts with their sequences; `logits_PV` follow the chunks' scored positions."""
    scored = [(chunk.sequence, position + 1) for chunk in chunks for position in chunk.scored]
    tokens = [sequence.token_ids[position] for sequence, position in scored]
    numbers = [sequence.prompt.prompt_logprobs or 0 for sequence, _ in scored]
    for (sequence, _), logprobs in zip(scored, logprobs_of(logits_PV, tokens, numbers), strict=True):
        sequence.prompt_logprobs.append(logprobs)


def logprobs_of(logits_RV: Tensor, token_ids: list[int], numbers: list[int]) -> list[Logprobs]:
    """One for each row's token, with as many alternatives as its number says."""
    if not token_ids:
        return []
    total_R1 = logits_RV.logsumexp(-1, keepdim=True)
    own_R1 = logits_RV.gather(-1, torch.tensor(token_ids, device=logits_RV.device)[:, None])
    ranks = ((logits_RV > own_R1).sum(-1) + 1).tolist()
    logprobs = (own_R1 - total_R1)[:, 0].tolist()
    tops = _tops(logits_RV, total_R1, numbers)
    return [Logprobs(*each) for each in zip(logprobs, ranks, tops, strict=True)]


def _tops(logits_RV: Tensor, total_R1: Tensor, numbers: list[int]) -> list[tuple[tuple[int, float], ...]]:
    most = min(max(numbers), logits_RV.shape[-1])
    if most == 0:
        return [()] * len(numbers)
    top_RK, ids_RK = logits_RV.topk(most)
    rows = zip(ids_RK.tolist(), (top_RK - total_R1).tolist(), numbers, strict=True)
    return [tuple(zip(ids[:number], logprobs[:number], strict=True)) for ids, logprobs, number in rows]

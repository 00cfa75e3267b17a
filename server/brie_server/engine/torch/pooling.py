"""Sums of hidden states over a step's texts that are embedded. It knows chunks, and no model."""

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from brie_server.engine.torch.shapes import Shapes
from brie_server.engine.torch.step import Chunk


def sum_hidden(hidden_NE: Tensor, chunks: SequenceOf[Chunk], shapes: Shapes) -> None:
    """Leave the sums of a step's embedding chunks with their sequences; what is nobody's goes into a last sum.

    A product with a matrix of ones and zeros would do as well, but for one sequence's NaN in all sums.
    """
    texts = [chunk.sequence for chunk in chunks if chunk.sequence.embeds]
    nobody, places = len(texts), iter(range(len(texts)))
    sum_of_chunk = [next(places) if chunk.sequence.embeds else nobody for chunk in chunks]
    sum_of_token = [place for place, chunk in zip(sum_of_chunk, chunks, strict=True) for _ in range(chunk.num_tokens)]
    sum_of_token_N = torch.tensor([*sum_of_token, *[nobody] * (len(hidden_NE) - len(sum_of_token))])
    sums_TE = hidden_NE.new_zeros((shapes.count(nobody + 1), hidden_NE.shape[1]), dtype=torch.float32)
    sums_TE.index_add_(0, sum_of_token_N.to(hidden_NE.device), hidden_NE.float())
    for text, values in zip(texts, sums_TE.tolist(), strict=False):
        text.add_hidden(values)

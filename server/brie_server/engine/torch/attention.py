"""Attention over the cache: single queries where sequences decode, a causal block for a prompt. It knows no weights.

Plain batched products, because `scaled_dot_product_attention` is three times slower on a CPU for a single query row.
"""

import torch
from torch import Tensor

from brie_server.engine.torch.batch import Batch, Decode, Prefill


def attend(q_NHGD: Tensor, k_NHD: Tensor, v_NHD: Tensor, layer: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Put the new keys and values into the layer's cache and look back at all of them; returns [N, H * G * D]."""
    parts = []
    n = batch.decode.rows_n.shape[0] if batch.decode else 0
    if batch.decode:
        parts.append(_decode(q_NHGD[:n], k_NHD[:n], v_NHD[:n], layer, batch.decode))
    if batch.prefill:
        parts.append(_prefill(q_NHGD[n:], k_NHD[n:], v_NHD[n:], layer, batch.prefill))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decode(q_nHGD: Tensor, k_nHD: Tensor, v_nHD: Tensor, layer: tuple[Tensor, Tensor], decode: Decode) -> Tensor:
    k_RHCD, v_RHCD = layer
    k_RHCD[decode.rows_n, :, decode.positions_n] = k_nHD
    v_RHCD[decode.rows_n, :, decode.positions_n] = v_nHD
    rows, _, _, longest = decode.hidden_R11C.shape
    q_RHGD = q_nHGD[decode.token_of_row_R]
    scores_RHGC = q_RHGD @ k_RHCD[:rows, :, :longest].transpose(-1, -2)
    weights_RHGC = _weights(scores_RHGC, decode.hidden_R11C, q_nHGD.shape[-1])
    return (weights_RHGC @ v_RHCD[:rows, :, :longest]).flatten(1)[decode.rows_n]


def _prefill(q_nHGD: Tensor, k_nHD: Tensor, v_nHD: Tensor, layer: tuple[Tensor, Tensor], prefill: Prefill) -> Tensor:
    k_HCD, v_HCD = (values_RHCD[prefill.row, :, : prefill.end] for values_RHCD in layer)
    k_HCD[:, prefill.start :] = k_nHD.transpose(0, 1)
    v_HCD[:, prefill.start :] = v_nHD.transpose(0, 1)
    n, heads, group, head_dim = q_nHGD.shape
    q_HMD = q_nHGD.permute(1, 2, 0, 3).reshape(heads, group * n, head_dim)
    scores_HGnC = (q_HMD @ k_HCD.transpose(-1, -2)).view(heads, group, n, prefill.end)
    weights_HGnC = _weights(scores_HGnC, prefill.hidden_nC, head_dim)
    out_HGnD = (weights_HGnC.flatten(1, 2) @ v_HCD).view(heads, group, n, head_dim)
    return out_HGnD.permute(2, 0, 1, 3).reshape(n, heads * group * head_dim)


def _weights(scores: Tensor, hidden: Tensor, head_dim: int) -> Tensor:
    scores.mul_(head_dim**-0.5).masked_fill_(hidden, float("-inf"))
    return torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)

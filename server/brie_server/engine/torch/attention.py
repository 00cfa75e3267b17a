"""Attention over the cache, one product for each group of rows. It knows no weights.

The G query heads that share a key head stand below one another as so many queries: then a key is read once for all of
them. `scaled_dot_product_attention` in this form takes half the time of two batched products on a CPU, except where
many rows are long (measured in docs/log.md).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brie_server.engine.torch.batch import Batch, Group
from brie_server.engine.torch.rows import replace_rows

_MANY_SCORES = 2**14
"""Rows times positions from which single queries are faster as two products on a CPU."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer weighs what it sees."""

    scale: float
    """Multiplies the products of queries and keys."""
    window: int | None
    """How many positions back it sees, its own included; None is all."""


def attend(q_NHGD: Tensor, kv_N2HD: Tensor, kv_2RHCD: Tensor, batch: Batch, scoring: Scoring) -> Tensor:
    """Put the new keys and values into the layer's cache and look back at all of them; returns [N, H * G * D]."""
    head_dim = q_NHGD.shape[-1]
    replace_rows(kv_2RHCD.view(-1, head_dim), batch.slots_M, kv_N2HD.reshape(-1, head_dim))
    parts = [attend_group(q_NHGD, kv_2RHCD, group, scoring) for group in batch.groups]
    if batch.token_computed_N is not None:
        return _gathered(parts, batch, batch.token_computed_N)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gathered(parts: list[Tensor], batch: Batch, computed_N: Tensor) -> Tensor:
    """All places' answers at their tokens; padding goes to one row too many, which nobody reads."""
    out_XO = parts[0].new_zeros(computed_N.shape[0] + 1, parts[0].shape[1])
    for group, part_PnO in zip(batch.groups, parts, strict=True):
        if group.home_of_place_Pn is not None:
            replace_rows(out_XO, group.home_of_place_Pn, part_PnO)
    return out_XO.index_select(0, computed_N)


def attend_group(q_NHGD: Tensor, kv_2RHCD: Tensor, group: Group, scoring: Scoring) -> Tensor:
    """What a group's tokens see of the cache, [its tokens, H * G * D]; their own keys and values are in it already."""
    _, heads, per_key, head_dim = q_NHGD.shape
    k_PHCD, v_PHCD = kv_2RHCD[:, group.first : group.first + group.num_rows, :, : group.longest]
    q_PnHGD = q_NHGD.index_select(0, group.token_of_place_Pn).view(group.num_rows, -1, heads, per_key, head_dim)
    n = q_PnHGD.shape[1]
    q_PHMD = q_PnHGD.permute(0, 2, 3, 1, 4).reshape(group.num_rows, heads, per_key * n, head_dim)
    bias_PHMC = group.bias_of_window[scoring.window].expand(-1, heads, -1, -1)
    if _is_better_as_products(q_PHMD, n, group):
        out_PHMD = _products(q_PHMD, k_PHCD, v_PHCD, bias_PHMC, scoring.scale)
    else:
        out_PHMD = functional.scaled_dot_product_attention(q_PHMD, k_PHCD, v_PHCD, bias_PHMC, scale=scoring.scale)
    out_PnHGD = out_PHMD.reshape(group.num_rows, heads, per_key, n, head_dim).permute(0, 3, 1, 2, 4)
    out_TO: Tensor = out_PnHGD.reshape(group.num_rows * n, -1)
    return out_TO if group.place_of_token_T is None else out_TO.index_select(0, group.place_of_token_T)


def _is_better_as_products(q_PHMD: Tensor, n: int, group: Group) -> bool:
    """On MPS always: there the fused kernels were wrong for keys that are a part of a tensor and for masks that are
    shared by the heads (pytorch #181133, #184180), both of which is the case here.
    """
    if q_PHMD.device.type == "mps":
        return True
    return n == 1 and q_PHMD.device.type == "cpu" and group.num_rows * group.longest >= _MANY_SCORES


def _products(q_PHMD: Tensor, k_PHCD: Tensor, v_PHCD: Tensor, bias_PHMC: Tensor, scale: float) -> Tensor:
    scores_PHMC = (q_PHMD @ k_PHCD.transpose(-1, -2)).mul_(scale).add_(bias_PHMC)
    return torch.softmax(scores_PHMC, -1, dtype=torch.float32).to(v_PHCD.dtype) @ v_PHCD

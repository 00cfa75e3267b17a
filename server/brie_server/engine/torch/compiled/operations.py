"""What lies between a decoder's matrix products, compiled. It knows a family's switches, and no product.

Single queries attend in the compiled function; those of prompts as products, as they do on any device.
"""

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.attention import Scoring, attend_group
from brie_server.engine.torch.batch import Batch
from brie_server.engine.torch.compiled import rows as rows_module
from brie_server.engine.torch.compiled.rows import MOST_HEAD_SIZE, HeadNorm, Heads, Rows
from brie_server.engine.torch.families import Activation
from brie_server.engine.torch.operations import Attention, Norm, Rotation
from brie_server.engine.torch.rotation import rotation


class CompiledOperations:
    """The operations as one pass over the rows each."""

    def __init__(self, architecture: Architecture, rows: Rows) -> None:
        self._architecture, self._rows = architecture, rows
        self._rounds = not architecture.switches.norms_from_one
        is_gelu = architecture.switches.activation is Activation.GELU_TANH
        self._activation = "gelu" if is_gelu else "silu"

    def norm(self, weight_E: Tensor) -> Norm:
        """A norm with this weight."""
        own, rows = rows_module.Norm(weight_E.float(), self._architecture.rms_eps, self._rounds), self._rows

        def normed(x_NE: Tensor, added_NE: Tensor | None = None) -> Tensor:
            return rows.norm(x_NE, added_NE, own)

        return normed

    def attention(self, scoring: Scoring, qk_norm_JD: Tensor | None) -> Attention:
        """The heads of a layer."""
        weight_JD = torch.empty(0) if qk_norm_JD is None else qk_norm_JD.float().contiguous()

        def attended(qkv_NO: Tensor, kv_2RHCD: Tensor, batch: Batch, rotation: Rotation) -> Tensor:
            weight = weight_JD.data_ptr() if weight_JD.numel() else None
            head_norm = HeadNorm(weight, self._architecture.rms_eps, self._rounds)
            heads = self._heads(batch, kv_2RHCD, batch.num_tokens)
            self._rows.place(qkv_NO, rotation, head_norm, kv_2RHCD, heads)
            return self._looked(qkv_NO, kv_2RHCD, batch, scoring)

        return attended

    def rotation(self, positions_N: Tensor, frequencies_d: Tensor, dtype: torch.dtype) -> Rotation:
        """cos_Nd and sin_Nd."""
        return rotation(positions_N, frequencies_d, dtype)

    def gate(self, gate_up_NF: Tensor) -> Tensor:
        """act(gate) * up, where the two stand side by side."""
        return self._rows.gate(self._activation, gate_up_NF)

    def _looked(self, qkv_NO: Tensor, kv_2RHCD: Tensor, batch: Batch, scoring: Scoring) -> Tensor:
        own, num_tokens = self._architecture, batch.num_tokens
        out_NO = torch.empty((num_tokens, own.num_heads * own.head_dim), dtype=qkv_NO.dtype)
        if batch.num_single:
            heads = self._heads(batch, kv_2RHCD, batch.num_single)
            self._rows.attend(qkv_NO, kv_2RHCD, out_NO, heads, (scoring.scale, scoring.window or 0))
        q_NJD = qkv_NO.view(num_tokens, -1, own.head_dim)[:, : own.num_heads]
        q_NHGD = q_NJD.view(num_tokens, own.num_kv_heads, -1, own.head_dim)
        for group in batch.groups:
            if group.tokens.start >= batch.num_single:
                out_NO[group.tokens] = attend_group(q_NHGD, kv_2RHCD, group, scoring)
        return out_NO

    def _heads(self, batch: Batch, kv_2RHCD: Tensor, num_tokens: int) -> Heads:
        own, (_, cache_rows, _, capacity, _) = self._architecture, kv_2RHCD.shape
        lines = batch.rows_N.data_ptr(), batch.positions_N.data_ptr()
        return Heads(num_tokens, own.num_heads, own.num_kv_heads, own.head_dim, cache_rows, capacity, *lines)


def can_compile(architecture: Architecture) -> bool:
    """Whether the compiled functions have room for this model's heads."""
    return architecture.head_dim <= MOST_HEAD_SIZE and architecture.head_dim % 2 == 0

"""What lies between a decoder's matrix products, as tensor operations: norms, heads and their attention, the gate.

This is the form for any device, and what the compiled form is judged by. It knows a family's switches, and no product.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.attention import Scoring, attend
from brie_server.engine.torch.batch import Batch
from brie_server.engine.torch.families import Activation
from brie_server.engine.torch.rotation import rotation

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of a step's positions, in the form that its operations want."""


class Norm(Protocol):
    """An RMS norm over the last dimension, in float32 whatever the model's type."""

    def __call__(self, x_NE: Tensor, added_NE: Tensor | None = None, /) -> Tensor:
        """Add `added_NE` to `x_NE` in place, if there is something to add; returns the norm of the sum."""
        ...


Attention = Callable[[Tensor, Tensor, Batch, Rotation], Tensor]
"""From qkv_NO, which may change, a layer's kv_2RHCD, the batch and its rotation to what the heads saw, [N, O]."""


class Operations(Protocol):
    """Makes each layer's operations once, when the model is loaded."""

    def norm(self, weight_E: Tensor) -> Norm: ...
    def attention(self, scoring: Scoring, qk_norm_JD: Tensor | None) -> Attention: ...
    def rotation(self, positions_N: Tensor, frequencies_d: Tensor, dtype: torch.dtype) -> Rotation: ...
    def gate(self, gate_up_NF: Tensor) -> Tensor:
        """act(gate) * up, where the two stand side by side."""
        ...


class TensorOperations:
    """The operations in torch's own."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture

    def norm(self, weight_E: Tensor) -> Norm:
        """A norm with this weight."""

        def normed(x_NE: Tensor, added_NE: Tensor | None = None) -> Tensor:
            return self._norm(x_NE if added_NE is None else x_NE.add_(added_NE), weight_E)

        return normed

    def attention(self, scoring: Scoring, qk_norm_JD: Tensor | None) -> Attention:
        """The heads of a layer."""
        num_heads, kv_heads = self._architecture.num_heads, self._architecture.num_kv_heads

        def attended(qkv_NO: Tensor, kv_2RHCD: Tensor, batch: Batch, rotation: Rotation) -> Tensor:
            qkv_NJD = qkv_NO.view(qkv_NO.shape[0], -1, self._architecture.head_dim)
            qk_NJD = qkv_NJD[:, : num_heads + kv_heads]
            if qk_norm_JD is not None:
                qk_NJD.copy_(self._norm(qk_NJD, qk_norm_JD))
            _rotate(qk_NJD, rotation)
            q_NHGD = qkv_NJD[:, :num_heads].view(qkv_NO.shape[0], kv_heads, -1, self._architecture.head_dim)
            return attend(q_NHGD, qkv_NJD[:, num_heads:], kv_2RHCD, batch, scoring)

        return attended

    def rotation(self, positions_N: Tensor, frequencies_d: Tensor, dtype: torch.dtype) -> Rotation:
        """cos_N1D and sin_N1D, the first half of the sine negative as `_rotate` needs it."""
        cos_Nd, sin_Nd = rotation(positions_N, frequencies_d, dtype)
        return torch.cat([cos_Nd, cos_Nd], 1)[:, None], torch.cat([-sin_Nd, sin_Nd], 1)[:, None]

    def gate(self, gate_up_NF: Tensor) -> Tensor:
        """act(gate) * up, where the two stand side by side."""
        gate_NF, up_NF = gate_up_NF.chunk(2, dim=1)
        if self._architecture.switches.activation is Activation.GELU_TANH:
            return functional.gelu(gate_NF, approximate="tanh") * up_NF
        return functional.silu(gate_NF) * up_NF

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Families differ in whether x / rms(x) is rounded to the model's type before the weight comes to it."""
        if self._architecture.switches.norms_from_one:
            normed = functional.rms_norm(x.float(), x.shape[-1:], None, self._architecture.rms_eps) * weight
            return normed.to(x.dtype)
        return functional.rms_norm(x, x.shape[-1:], None, self._architecture.rms_eps) * weight


def _rotate(x_NJD: Tensor, rotation: Rotation) -> None:
    """Turn each pair (i, i + D / 2) of a head by its angle, in place."""
    cos_N1D, sin_N1D = rotation
    swapped_NJD = x_NJD.view(*x_NJD.shape[:-1], 2, -1).flip(-2).flatten(-2)
    if x_NJD.device.type == "mps":  # addcmul_ on a part of a tensor has been silently wrong there
        x_NJD.copy_(x_NJD * cos_N1D + swapped_NJD * sin_N1D)
    else:
        x_NJD.mul_(cos_N1D).addcmul_(swapped_NJD, sin_N1D)

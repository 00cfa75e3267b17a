"""The forward pass of a llama-shaped decoder, after transformers' own arithmetic. It knows no requests and no sampling.

Letters in tensor names: N tokens of a step, S of them sample, E hidden size, J query and key heads together, H key
heads, G query heads per key head, D head size, O and I a matrix's outputs and inputs, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from brie_server.engine.torch.architecture import Architecture, Site
from brie_server.engine.torch.attention import Scoring, attend
from brie_server.engine.torch.batch import Batch
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.families import Activation
from brie_server.engine.torch.lora_pool import LoraBatch
from brie_server.engine.torch.rotary import LinearScaling, Llama3Scaling, Rope
from brie_server.engine.torch.weights import Weights

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: functional.silu,
    Activation.GELU_TANH: partial(functional.gelu, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class _Pass:
    """What stays the same from layer to layer."""

    batch: Batch
    cache: Cache
    lora: LoraBatch | None
    rotations: Mapping[Rope, tuple[Tensor, Tensor]]


class Decoder:
    """One base model, answering for itself and for any mix of adapters."""

    def __init__(self, architecture: Architecture, weights: Weights) -> None:
        self._architecture = architecture
        self._weights = weights
        self._activation = _ACTIVATIONS[architecture.switches.activation]
        self._ropes = tuple(attention.rope for attention in architecture.attentions)
        self._scorings = tuple(Scoring(architecture.score_scale, each.window) for each in architecture.attentions)
        device = weights.norm_E.device
        self._frequencies_d = {
            rope: rotary_frequencies(rope, architecture.head_dim).to(device) for rope in set(self._ropes)
        }
        # rounded to the model's type, as transformers does
        self._embedding_scale = torch.tensor(architecture.hidden_size**0.5).to(weights.embedding_VE.dtype).item()

    def forward(self, batch: Batch, cache: Cache, lora: LoraBatch | None) -> Tensor:
        """Compute the step's tokens, write their keys and values into the cache; returns float32 logits [S, V]."""
        x_NE = functional.embedding(batch.token_ids_N, self._weights.embedding_VE)
        if self._architecture.switches.scaled_embedding:
            x_NE *= self._embedding_scale
        this = _Pass(batch, cache, lora, self._rotations(batch.positions_N, x_NE.dtype))
        for index, layer in enumerate(self._weights.layers):
            attended_NE = self._attention(self._norm(x_NE, layer.attention_norm_E), index, this)
            x_NE += self._output(attended_NE, layer.attention_out_norm_E)
            x_NE += self._output(self._mlp(self._norm(x_NE, layer.mlp_norm_E), index, this), layer.mlp_out_norm_E)
        last_SE = self._norm(x_NE[batch.logits_S], self._weights.norm_E)
        return self._weights.head.apply(last_SE).float()

    def _attention(self, x_NE: Tensor, index: int, this: _Pass) -> Tensor:
        num_tokens, heads, kv_heads = x_NE.shape[0], self._architecture.num_heads, self._architecture.num_kv_heads
        qkv_NJD = self._linear(x_NE, index, Site.QKV, this).view(num_tokens, -1, self._architecture.head_dim)
        qk_NJD = qkv_NJD[:, : heads + kv_heads]
        if (norm_JD := self._weights.layers[index].qk_norm_JD) is not None:
            qk_NJD.copy_(self._norm(qk_NJD, norm_JD))
        _rotate(qk_NJD, this.rotations[self._ropes[index]])
        q_NHGD = qkv_NJD[:, :heads].view(num_tokens, kv_heads, -1, self._architecture.head_dim)
        out_NO = attend(q_NHGD, qkv_NJD[:, heads:], this.cache.layer(index), this.batch, self._scorings[index])
        return self._linear(out_NO, index, Site.O, this)

    def _mlp(self, x_NE: Tensor, index: int, this: _Pass) -> Tensor:
        gate_NF, up_NF = self._linear(x_NE, index, Site.GATE_UP, this).chunk(2, dim=1)
        return self._linear(self._activation(gate_NF) * up_NF, index, Site.DOWN, this)

    def _linear(self, x_NI: Tensor, index: int, site: Site, this: _Pass) -> Tensor:
        linear = self._weights.layers[index].linears[site]
        out_NO = linear.apply(x_NI)
        if this.lora is not None:
            this.lora.add(index, site, x_NI, out_NO)
        return out_NO

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension, in float32 whatever the model's type; so is the weight's part in some."""
        if self._architecture.switches.norms_from_one:
            normed = functional.rms_norm(x.float(), x.shape[-1:], None, self._architecture.rms_eps) * weight
            return normed.to(x.dtype)
        return functional.rms_norm(x, x.shape[-1:], None, self._architecture.rms_eps) * weight

    def _output(self, x_NE: Tensor, norm_E: Tensor | None) -> Tensor:
        return x_NE if norm_E is None else self._norm(x_NE, norm_E)

    def _rotations(self, positions_N: Tensor, dtype: torch.dtype) -> Mapping[Rope, tuple[Tensor, Tensor]]:
        """For each rope in the model cos_N1D and sin_N1D."""
        return {rope: _rotation(positions_N, each_d, dtype) for rope, each_d in self._frequencies_d.items()}


def rotary_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """The angle per position of each pair in a head, float32 [head_dim / 2]."""
    exponents_d = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies_d = 1.0 / rope.theta**exponents_d
    if isinstance(rope.scaling, LinearScaling):
        return frequencies_d / rope.scaling.factor
    return _stretched(frequencies_d, rope.scaling) if rope.scaling else frequencies_d


def _stretched(frequencies_d: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3: what turns fast stays, what turns slower than the first context is slowed, and between they blend."""
    turns_d = scaling.original_context * frequencies_d / (2 * math.pi)
    blend_d = (turns_d - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend_d = blend_d.clamp(0, 1)
    return (1 - blend_d) * frequencies_d / scaling.factor + blend_d * frequencies_d


def _rotation(positions_N: Tensor, frequencies_d: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos_N1D and sin_N1D, the first half of the sine negative as `_rotate` needs it."""
    angles_Nd = positions_N[:, None].float() * frequencies_d
    cos_Nd, sin_Nd = angles_Nd.cos(), angles_Nd.sin()
    cos_ND, sin_ND = torch.cat([cos_Nd, cos_Nd], 1), torch.cat([-sin_Nd, sin_Nd], 1)
    return cos_ND[:, None].to(dtype), sin_ND[:, None].to(dtype)


def _rotate(x_NJD: Tensor, rotation: tuple[Tensor, Tensor]) -> None:
    """Turn each pair (i, i + D / 2) of a head by its angle, in place."""
    cos_N1D, sin_N1D = rotation
    swapped_NJD = x_NJD.view(*x_NJD.shape[:-1], 2, -1).flip(-2).flatten(-2)
    if x_NJD.device.type == "mps":  # addcmul_ on a part of a tensor has been silently wrong there
        x_NJD.copy_(x_NJD * cos_N1D + swapped_NJD * sin_N1D)
    else:
        x_NJD.mul_(cos_N1D).addcmul_(swapped_NJD, sin_N1D)

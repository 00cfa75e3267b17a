"""The forward pass of a llama-shaped decoder, after transformers' own arithmetic. It knows no requests and no sampling.

Letters in tensor names: N tokens of a step, S of them sample, E hidden size, J query and key heads together, H key
heads, G query heads per key head, D head size, O and I a matrix's outputs and inputs, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from brie_server.engine.torch.architecture import Architecture, Site
from brie_server.engine.torch.attention import Scoring
from brie_server.engine.torch.batch import Batch
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.linear import Linear
from brie_server.engine.torch.operations import Attention, Norm, Operations, Rotation
from brie_server.engine.torch.rotary import Rope
from brie_server.engine.torch.rotation import rotary_frequencies
from brie_server.engine.torch.weights import LayerWeights, Weights


class Lora(Protocol):
    """What the adapters of a step add."""

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor, /) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        ...


@dataclass(frozen=True, slots=True)
class _Pass:
    """What stays the same from layer to layer."""

    batch: Batch
    cache: Cache
    lora: Lora | None
    rotations: Mapping[Rope, Rotation]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer, ready to run."""

    index: int
    linears: Mapping[Site, Linear]
    attention_norm: Norm
    attention: Attention
    attention_out_norm: Norm | None
    mlp_norm: Norm
    mlp_out_norm: Norm | None
    rope: Rope


class Decoder:
    """One base model, answering for itself and for any mix of adapters."""

    def __init__(self, architecture: Architecture, weights: Weights, operations: Operations) -> None:
        self._weights, self._operations = weights, operations
        self._layers = tuple(_layer(index, each, architecture, operations) for index, each in enumerate(weights.layers))
        self._norm = operations.norm(weights.norm_E)
        device, ropes = weights.norm_E.device, {layer.rope for layer in self._layers}
        self._frequencies_d = {rope: rotary_frequencies(rope, architecture.head_dim).to(device) for rope in ropes}
        # rounded to the model's type, as transformers does
        scale = torch.tensor(architecture.hidden_size**0.5).to(weights.embedding_VE.dtype).item()
        self._embedding_scale = scale if architecture.switches.scaled_embedding else None

    def forward(self, batch: Batch, cache: Cache, lora: Lora | None) -> Tensor:
        """Compute the step's tokens, write their keys and values into the cache; returns [N, E] for what follows."""
        x_NE = functional.embedding(batch.token_ids_N, self._weights.embedding_VE)
        if self._embedding_scale is not None:
            x_NE *= self._embedding_scale
        this = _Pass(batch, cache, lora, self._rotations(batch, x_NE.dtype))
        added_NE: Tensor | None = None
        for layer in self._layers:
            attended_NE = _attention(layer, layer.attention_norm(x_NE, added_NE), this)
            added_NE = _mlp(layer, layer.mlp_norm(x_NE, attended_NE), self._operations, this)
        if added_NE is not None:
            x_NE += added_NE
        return x_NE

    def logits(self, x_SE: Tensor) -> Tensor:
        """What some of the tokens in `forward`'s result say of the next one: float32 [S, V]."""
        return self._weights.head.apply(self._norm(x_SE)).float()

    def hidden(self, x_NE: Tensor) -> Tensor:
        """The last hidden states of `forward`'s result, as transformers tells them: behind the final norm."""
        return self._norm(x_NE)

    def _rotations(self, batch: Batch, dtype: torch.dtype) -> Mapping[Rope, Rotation]:
        return {
            rope: self._operations.rotation(batch.positions_N, frequencies_d, dtype)
            for rope, frequencies_d in self._frequencies_d.items()
        }


def _layer(index: int, weights: LayerWeights, architecture: Architecture, operations: Operations) -> _Layer:
    def norm(weight_E: Tensor | None) -> Norm | None:
        return None if weight_E is None else operations.norm(weight_E)

    own = architecture.attentions[index]
    return _Layer(
        index,
        weights.linears,
        operations.norm(weights.attention_norm_E),
        operations.attention(Scoring(architecture.score_scale, own.window), weights.qk_norm_JD),
        norm(weights.attention_out_norm_E),
        operations.norm(weights.mlp_norm_E),
        norm(weights.mlp_out_norm_E),
        own.rope,
    )


def _attention(layer: _Layer, x_NE: Tensor, this: _Pass) -> Tensor:
    qkv_NO = _linear(layer, Site.QKV, x_NE, this)
    kv_2RHCD = this.cache.layer(layer.index)
    out_NE = _linear(layer, Site.O, layer.attention(qkv_NO, kv_2RHCD, this.batch, this.rotations[layer.rope]), this)
    return out_NE if layer.attention_out_norm is None else layer.attention_out_norm(out_NE)


def _mlp(layer: _Layer, x_NE: Tensor, operations: Operations, this: _Pass) -> Tensor:
    gated_NF = operations.gate(_linear(layer, Site.GATE_UP, x_NE, this))
    out_NE = _linear(layer, Site.DOWN, gated_NF, this)
    return out_NE if layer.mlp_out_norm is None else layer.mlp_out_norm(out_NE)


def _linear(layer: _Layer, site: Site, x_NI: Tensor, this: _Pass) -> Tensor:
    out_NO = layer.linears[site].apply(x_NI)
    if this.lora is not None:
        this.lora.add(layer.index, site, x_NI, out_NO)
    return out_NO

"""Puts a checkpoint's tensors on the device, fused as the forward pass wants them. It knows names, not what they do."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_core.errors import BadConfiguration
from brie_core.weights.base_model import BaseModel
from brie_core.weights.safetensors import TensorInfo
from brie_server.engine.torch.architecture import PARTS, Architecture, Site
from brie_server.engine.torch.compiled.rows import int8_row
from brie_server.engine.torch.linear import Linear, linear
from brie_server.engine.torch.linear_int8 import int8_linear
from brie_server.engine.torch.target import Target


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer."""

    linears: Mapping[Site, Linear]
    attention_norm_E: Tensor
    attention_out_norm_E: Tensor | None
    """Of what attention gives, where the family has one."""
    mlp_norm_E: Tensor
    mlp_out_norm_E: Tensor | None
    qk_norm_JD: Tensor | None
    """The query heads' norm for each of them, then the key heads'."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model."""

    embedding_VE: Tensor
    layers: tuple[LayerWeights, ...]
    norm_E: Tensor
    head: Linear
    """The embedding's own values where it is tied."""


def to_tensor(info: TensorInfo) -> Tensor:
    """One tensor from its file, on the CPU, as stored."""
    flat = torch.from_numpy(info.read_raw())
    return flat.view(torch.bfloat16) if info.dtype == "BF16" else flat


def load_weights(base: BaseModel, architecture: Architecture, target: Target) -> Weights:
    """Read the model, a tensor at a time; raises BadConfiguration for one too many, missing or of another shape."""
    reader = _Reader(base.tensors, target)
    weights = _read(reader, architecture)
    reader.check_all_used()
    return weights


def _read(reader: "_Reader", architecture: Architecture) -> Weights:
    vocabulary = (architecture.vocab_size, architecture.hidden_size)
    embedding_VE = reader.take("model.embed_tokens.weight", vocabulary)
    layers = tuple(_read_layer(reader, architecture, index) for index in range(architecture.num_layers))
    norm_E = _read_norm(reader, architecture, "model.norm", architecture.hidden_size)
    if architecture.tied_head:
        reader.ignore("lm_head.weight")
        return Weights(embedding_VE, layers, norm_E, reader.linear(embedding_VE))
    return Weights(embedding_VE, layers, norm_E, reader.linear(reader.take("lm_head.weight", vocabulary)))


def _read_layer(reader: "_Reader", architecture: Architecture, index: int) -> LayerWeights:
    prefix = architecture.module(index, "")
    reader.ignore(f"{prefix}self_attn.rotary_emb.inv_freq")  # old checkpoints store what config.json says
    size, more = architecture.hidden_size, architecture.switches.output_norms

    def norm(name: str) -> Tensor:
        return _read_norm(reader, architecture, f"{prefix}{name}", size)

    return LayerWeights(
        linears={site: _read_site(reader, architecture, index, site) for site in Site},
        attention_norm_E=norm("input_layernorm"),
        attention_out_norm_E=norm("post_attention_layernorm") if more else None,
        mlp_norm_E=norm("pre_feedforward_layernorm" if more else "post_attention_layernorm"),
        mlp_out_norm_E=norm("post_feedforward_layernorm") if more else None,
        qk_norm_JD=_read_qk_norm(reader, architecture, prefix) if architecture.switches.qk_norm else None,
    )


def _read_norm(reader: "_Reader", architecture: Architecture, name: str, size: int) -> Tensor:
    """The factors of a norm; those stored as their distance from one are whole, in float32, from here on."""
    stored = reader.take(f"{name}.weight", (size,))
    return stored.float() + 1 if architecture.switches.norms_from_one else stored


def _read_qk_norm(reader: "_Reader", architecture: Architecture, prefix: str) -> Tensor:
    q_norm_D = _read_norm(reader, architecture, f"{prefix}self_attn.q_norm", architecture.head_dim)
    k_norm_D = _read_norm(reader, architecture, f"{prefix}self_attn.k_norm", architecture.head_dim)
    q_norm_JD = q_norm_D.expand(architecture.num_heads, -1)
    return torch.cat([q_norm_JD, k_norm_D.expand(architecture.num_kv_heads, -1)])


def _read_site(reader: "_Reader", architecture: Architecture, layer: int, site: Site) -> Linear:
    shapes = {architecture.module(layer, part): architecture.shape(part) for part in PARTS[site]}
    weight_OI = reader.stack({f"{name}.weight": shape for name, shape in shapes.items()})
    if site is not Site.QKV or not architecture.switches.qkv_bias:
        return reader.linear(weight_OI)
    return reader.linear(weight_OI, reader.stack({f"{name}.bias": shape[:1] for name, shape in shapes.items()}))


class _Reader:
    """Hands out a checkpoint's tensors and keeps account of them."""

    def __init__(self, tensors: Mapping[str, TensorInfo], target: Target) -> None:
        self._tensors = tensors
        self._unused = set(tensors)
        self._device, self._dtype, self._has_int8 = target.device, target.dtype, target.has_int8_weights
        self._int8_row = int8_row() if target.has_int8_weights else None

    def linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Linear:
        return int8_linear(weight_OI, bias_O, self._int8_row) if self._has_int8 else linear(weight_OI, bias_O)

    def ignore(self, name: str) -> None:
        self._unused.discard(name)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.stack({name: shape})

    def stack(self, shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
        """The named tensors one below the other; each is copied into its place and dropped before the next is read."""
        rows = [shape[0] for shape in shapes.values()]
        columns = next(iter(shapes.values()))[1:]
        stacked = torch.empty((sum(rows), *columns), device=self._device, dtype=self._dtype)
        for place, (name, shape) in zip(torch.split(stacked, rows), shapes.items(), strict=True):
            place.copy_(to_tensor(self._checked(name, shape)))
        return stacked

    def check_all_used(self) -> None:
        if self._unused:
            raise BadConfiguration(
                f"The checkpoint holds {len(self._unused)} tensors that the torch engine has no use for, such as "
                f"{min(self._unused)}: the model would not be itself without them."
            )

    def _checked(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        info = self._tensors.get(name)
        if info is None:
            raise BadConfiguration(f"The checkpoint lacks {name}.")
        if info.shape != shape:
            raise BadConfiguration(f"{name} has shape {info.shape} where config.json promises {shape}.")
        self._unused.discard(name)
        return info

"""A Llama-shaped decoder whose only trained tensors are LoRA's: ids in, hidden states out, without padding.

    embedding -> [norm -> qkv -> rotation -> attention -> o, norm -> gate and up -> SwiGLU -> down] x layers -> norm

Built out of a transformers model, whose tensors it takes over; llama, mistral, qwen2 and qwen3 have this shape. It
knows no head and no label.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from brie_trainer.training.batches import Batch
from brie_trainer.training.differentiable import GroupedLora, RmsNorm, Rotation, SwiGlu, attention

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(slots=True)
class Group:
    """Linears with one input, computed as one."""

    names: tuple[str, ...]
    """Their modules' names in the checkpoint."""
    weight_OI: Tensor
    bias_O: Tensor | None
    sizes: tuple[int, ...]
    """Outputs of each."""
    lora: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]
    """A (rank, inputs) and B (outputs, rank) of those that have one, by name."""

    def __call__(self, x_SI: Tensor, scale: float | None) -> Tensor:
        """`scale` of the adapter, None for the base alone."""
        if scale is None or not self.lora:
            return linear(x_SI, self.weight_OI, self.bias_O)
        a_RI = torch.cat([self.lora[name][0] for name in self.names if name in self.lora])
        return _apply(GroupedLora, x_SI, self.weight_OI, self.bias_O, a_RI, self._blocks() * scale)

    def _blocks(self) -> Tensor:
        blocks = [
            self.lora[name][1] if name in self.lora else self.weight_OI.new_zeros(size, 0, dtype=torch.float32)
            for name, size in zip(self.names, self.sizes, strict=True)
        ]
        return torch.block_diag(*blocks) if len(blocks) > 1 else blocks[0]  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Layer:
    """One block; norms are frozen."""

    qkv: Group
    o: Group
    gate_up: Group
    down: Group
    attention_norm_H: Tensor
    mlp_norm_H: Tensor
    q_norm_D: Tensor | None
    k_norm_D: Tensor | None
    window: int

    @property
    def groups(self) -> tuple[Group, ...]:
        """All four."""
        return (self.qkv, self.o, self.gate_up, self.down)


class Decoder:
    """The whole of it; `scale` is the adapter's, None while the base is asked alone."""

    def __init__(self, whole: Any) -> None:
        self.config = whole.config
        self.scale: float | None = None
        self.checkpointing = False
        self._embedding_VH = whole.model.embed_tokens.weight
        self._norm_H = whole.model.norm.weight
        self._rotary = whole.model.rotary_emb
        self._eps = float(self.config.rms_norm_eps)
        self._head_dim = whole.model.layers[0].self_attn.head_dim
        self.layers = [_layer(number, block) for number, block in enumerate(whole.model.layers)]

    def adapt(self, lora: Mapping[str, tuple[torch.nn.Parameter, torch.nn.Parameter]], scale: float) -> None:
        """Put A and B, by the names of their modules, where they belong."""
        self.scale = scale
        for group in self.groups():
            group.lora = {name: lora[name] for name in group.names if name in lora}

    def groups(self) -> Iterator[Group]:
        """Every group of every layer."""
        for layer in self.layers:
            yield from layer.groups

    def hidden_states(self, batch: Batch) -> Tensor:
        """Of shape (S, H), behind the last norm."""
        x_SH = self._embedding_VH[batch.ids_S]
        cos, sin = self._rotary(x_SH[None], batch.positions_S[None])
        half = self._head_dim // 2
        turns = (cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous())
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x_SH = checkpoint(self._block, layer, x_SH, turns, batch.lengths, use_reentrant=False)
            else:
                x_SH = self._block(layer, x_SH, turns, batch.lengths)
        return self._normed(x_SH, self._norm_H)

    def _block(self, layer: Layer, x_SH: Tensor, turns: tuple[Tensor, Tensor], lengths: tuple[int, ...]) -> Tensor:
        mixed_SH = self._attend(layer, self._normed(x_SH, layer.attention_norm_H), turns, lengths)
        x_SH = x_SH + layer.o(mixed_SH, self.scale)
        both_SJ = layer.gate_up(self._normed(x_SH, layer.mlp_norm_H), self.scale)
        return x_SH + layer.down(_apply(SwiGlu, both_SJ), self.scale)

    def _attend(self, layer: Layer, x_SH: Tensor, turns: tuple[Tensor, Tensor], lengths: tuple[int, ...]) -> Tensor:
        parts = torch.split(layer.qkv(x_SH, self.scale), list(layer.qkv.sizes), dim=-1)
        q_SND, k_SMD, v_SMD = (part.view(len(part), -1, self._head_dim) for part in parts)
        if layer.q_norm_D is not None and layer.k_norm_D is not None:
            q_SND, k_SMD = self._normed(q_SND, layer.q_norm_D), self._normed(k_SMD, layer.k_norm_D)
        q_SND, k_SMD = _apply(Rotation, q_SND, *turns), _apply(Rotation, k_SMD, *turns)
        return attention(q_SND, k_SMD, v_SMD, lengths, self._head_dim**-0.5, layer.window)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return _apply(RmsNorm, x, weight, self._eps)


def _apply(operation: type[torch.autograd.Function], *operands: Any) -> Tensor:
    """torch does not say what type this returns."""
    found: Tensor = operation.apply(*operands)  # type: ignore[no-untyped-call]
    return found


def _layer(number: int, block: Any) -> Layer:
    mixer, mlp, prefix = block.self_attn, block.mlp, f"model.layers.{number}"
    q_norm, k_norm = getattr(mixer, "q_norm", None), getattr(mixer, "k_norm", None)
    return Layer(
        qkv=_group(mixer, f"{prefix}.self_attn", ("q_proj", "k_proj", "v_proj")),
        o=_group(mixer, f"{prefix}.self_attn", ("o_proj",)),
        gate_up=_group(mlp, f"{prefix}.mlp", ("gate_proj", "up_proj")),
        down=_group(mlp, f"{prefix}.mlp", ("down_proj",)),
        attention_norm_H=block.input_layernorm.weight,
        mlp_norm_H=block.post_attention_layernorm.weight,
        q_norm_D=None if q_norm is None else q_norm.weight,
        k_norm_D=None if k_norm is None else k_norm.weight,
        window=_window(mixer),
    )


def _window(mixer: Any) -> int:
    """Of this layer; mistral has one for all layers, which its modules do not name."""
    own = mixer.sliding_window if hasattr(mixer, "sliding_window") else getattr(mixer.config, "sliding_window", None)
    return int(own or 0)


def _group(module: Any, prefix: str, names: Sequence[str]) -> Group:
    """The modules' weights in one tensor, which they are made views of, so that none lies in memory twice."""
    linears = [getattr(module, name) for name in names]
    sizes = tuple(each.out_features for each in linears)
    weight_OI = linears[0].weight.data if len(linears) == 1 else torch.cat([each.weight.data for each in linears])
    for each, part in zip(linears, weight_OI.split(sizes), strict=True):
        each.weight.data = part
    biases = [each.bias for each in linears]
    bias_O = None if biases[0] is None else torch.cat([bias.data for bias in biases])
    return Group(tuple(f"{prefix}.{name}" for name in names), weight_OI, bias_O, sizes, {})

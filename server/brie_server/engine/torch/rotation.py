"""Rotary angles as tensors, from what `rotary` read in the config. It knows no head and no cache."""

import math

import torch
from torch import Tensor

from brie_server.engine.torch.rotary import LinearScaling, Llama3Scaling, Rope


def rotary_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """The angle per position of each pair in a head, float32 [head_dim / 2]."""
    exponents_d = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies_d = 1.0 / rope.theta**exponents_d
    if isinstance(rope.scaling, LinearScaling):
        return frequencies_d / rope.scaling.factor
    return _stretched(frequencies_d, rope.scaling) if rope.scaling else frequencies_d


def rotation(positions_N: Tensor, frequencies_d: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos_Nd and sin_Nd of each position's angles, rounded to `dtype` as transformers does."""
    angles_Nd = positions_N[:, None].float() * frequencies_d
    return angles_Nd.cos().to(dtype), angles_Nd.sin().to(dtype)


def _stretched(frequencies_d: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3: what turns fast stays, what turns slower than the first context is slowed, and between they blend."""
    turns_d = scaling.original_context * frequencies_d / (2 * math.pi)
    blend_d = (turns_d - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend_d = blend_d.clamp(0, 1)
    return (1 - blend_d) * frequencies_d / scaling.factor + blend_d * frequencies_d

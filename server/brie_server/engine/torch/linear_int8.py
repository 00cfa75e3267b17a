"""y = x @ W.T + b with weights of eight bits, for a single stream on a CPU. It knows no model and no adapter.

One row is memory's work: eight bits are read in half of the time that 16 take. Several rows are arithmetic's, and go
through `linear` with the same values: a scale has four bits, so that its products with numbers of seven bits are
exactly what 16 bits hold. What is computed does not depend on how many rows there are.
"""

import torch
from torch import Tensor

from brie_server.engine.torch.compiled.rows import Int8Row, Quantized
from brie_server.engine.torch.linear import Linear, linear

_LARGEST = 127
_SCALE_BITS = 4


def int8_linear(weight_OI: Tensor, bias_O: Tensor | None, row: Int8Row | None) -> Linear:
    """The product with the weight in eight bits, `weight_OI` being float32 and rounded here."""
    weight_OI, scale_O1 = quantize(weight_OI)
    several = linear(weight_OI.float() * scale_O1, bias_O)
    if row is None:
        return several
    bias = None if bias_O is None else bias_O.data_ptr()
    quantized = Quantized(weight_OI.data_ptr(), scale_O1.data_ptr(), bias, *weight_OI.shape)
    owners = weight_OI, scale_O1, bias_O

    def apply(x_NI: Tensor) -> Tensor:
        return row(x_NI, quantized) if len(x_NI) == 1 and owners else several.apply(x_NI)

    return Linear(apply)


def quantize(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [O, I] and its float32 scale [O, 1], as small as its bits allow."""
    mantissa_O1, exponent_O1 = torch.frexp(weight_OI.abs().amax(1, keepdim=True) / _LARGEST)
    scale_O1 = torch.ldexp((mantissa_O1 * 2**_SCALE_BITS).ceil() / 2**_SCALE_BITS, exponent_O1)
    divisor_O1 = torch.where(scale_O1 > 0, scale_O1, torch.ones_like(scale_O1))
    return (weight_OI / divisor_O1).round().to(torch.int8), scale_O1

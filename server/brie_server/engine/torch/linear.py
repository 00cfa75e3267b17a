"""y = x @ W.T + b, in the form that is fastest on the device. It knows no model and no adapter.

A plain product on a CPU packs its weight anew at every call, which takes longer than the product itself while the rows
are few. So the weight is packed once, in one of two layouts (figures for all products of SmolLM2 in docs/log.md):

- float32 activations, and a weight that 16 bits hold: FBGEMM's half-precision layout. The weight is widened on its way
  into float32 arithmetic, and half the memory is read: 15 ms for one row where oneDNN takes 28 and a plain product 44.
- everything else: oneDNN's own layout.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_TYPICAL_ROWS = 32
_NOTHING = 2.0**-23
"""Relative to a whole row of the weight: the step between float32 numbers."""
_BLOCK = 4096


class Linear:
    """One matrix product of the model."""

    def __init__(self, product: Callable[[Tensor], Tensor]) -> None:
        self.apply = product
        """x_NI times the weight, [N, O]: always a tensor of its own, which the caller may change."""


def linear(weight_OI: Tensor, bias_O: Tensor | None = None) -> Linear:
    """The product in its fastest form."""
    return Linear(_product(weight_OI, bias_O))


def _product(weight_OI: Tensor, bias_O: Tensor | None) -> Callable[[Tensor], Tensor]:
    if weight_OI.device.type == "cpu":
        if weight_OI.dtype is torch.float32 and _has_fbgemm() and fits_half(weight_OI):
            return _half(weight_OI, bias_O)
        if _packs(weight_OI.dtype):
            return _packed(weight_OI, bias_O)
    return lambda x_NI: functional.linear(x_NI, weight_OI, bias_O)


def fits_half(weight_OI: Tensor) -> bool:
    """Whether 16 bits hold the weight with no error that float32 arithmetic could show.

    They hold every bfloat16 up to 65504 exactly but the smallest. Each output is judged by itself, for a row of small
    numbers beside rows of large ones has no others: what its numbers lose is as a vector no more than `_NOTHING` of it.
    """
    return all(_fits(block) for block in torch.split(weight_OI, _BLOCK))


def _fits(weight_OI: Tensor) -> bool:
    lost_O, all_O = (
        torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in (weight_OI - weight_OI.half(), weight_OI)
    )
    return bool((lost_O <= all_O * _NOTHING).all())  # not so for infinity or NaN


def _half(weight_OI: Tensor, bias_O: Tensor | None) -> Callable[[Tensor], Tensor]:
    packed, product = (
        torch.ops.quantized.linear_prepack_fp16(weight_OI, bias_O),
        torch.ops.quantized.linear_dynamic_fp16,
    )

    def apply(x_NI: Tensor) -> Tensor:
        out_NO: Tensor = product(x_NI, packed)
        return out_NO

    return apply


def _packed(weight_OI: Tensor, bias_O: Tensor | None) -> Callable[[Tensor], Tensor]:
    packed, product = (
        torch.ops.mkldnn._reorder_linear_weight(weight_OI, _TYPICAL_ROWS),
        torch.ops.mkldnn._linear_pointwise,
    )

    def apply(x_NI: Tensor) -> Tensor:
        out_NO: Tensor = product(x_NI, packed, bias_O, "none", [], "")
        return out_NO

    return apply


def _has_fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has such a layout; in bfloat16 it refuses on a CPU without AVX-512."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())

"""y = x @ W.T + b, in the form that is fastest on the device. It knows no model and no adapter.

On a CPU the weight is packed once into oneDNN's own layout: a plain product packs it anew at every call, which takes
longer than the product itself while the rows are few (SmolLM2 in bfloat16: 6 ms instead of 13 for one row, 9 instead
of 20 for eight, 25 instead of 38 for 32; docs/log.md).
"""

import torch
from torch import Tensor
from torch.nn import functional

_TYPICAL_ROWS = 32


class Linear:
    """One matrix product of the model."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._packed = weight_OI.device.type == "cpu" and _packs(weight_OI.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI, _TYPICAL_ROWS) if self._packed else weight_OI
        self._bias_O = bias_O

    def apply(self, x_NI: Tensor) -> Tensor:
        """x_NI times the weight, [N, O]: always a tensor of its own, which the caller may change."""
        if self._packed:
            out_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._weight, self._bias_O, "none", [], "")
            return out_NO
        return functional.linear(x_NI, self._weight, self._bias_O)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has such a layout; in bfloat16 it refuses on a CPU without AVX-512."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())

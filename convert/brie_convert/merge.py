"""One tensor of the file as a stream of row blocks: read, merged in f32, regrouped, cast. It knows no file format.

A block is a few megabytes, so a 7B model needs no more memory than a small one. The low-rank product is added in f32
and rounded once: the way over a merged bf16 checkpoint costs forty times the divergence.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from brie_convert.plan import Storage, TensorPlan
from brie_core.errors import InvalidRequest
from brie_core.weights.gguf_layout import interleave_halves
from brie_core.weights.lora import LoraModule
from brie_core.weights.safetensors import TensorInfo, bfloat16_to_float16, bfloat16_to_float32, float32_to_bfloat16

_BLOCK_ELEMENTS = 2**20
# From here on a number rounds to infinity; a Q8_0 block stores its largest magnitude / 127 as f16.
_LIMITS: Mapping[Storage, float] = {"F32": np.inf, "BF16": 3.396e38, "F16": 65520.0, "Q8_0": 65504.0 * 127}

Floats = npt.NDArray[np.float32]


def tensor_blocks(tensor: TensorPlan) -> Iterator[npt.NDArray[Any]]:
    """The rows of `tensor` in order, as they are to be written; raises InvalidRequest for numbers that do not fit."""
    low_rank = _LowRank(tensor.lora) if tensor.lora else None
    is_rounded_alone = tensor.source.dtype == "BF16" and tensor.storage == "F16" and not low_rank and not tensor.offset
    rows = tensor.source.shape[0]
    unit = rows // tensor.heads if tensor.heads else 1
    step = unit * max(1, _BLOCK_ELEMENTS * rows // max(1, _elements(tensor.source)) // unit)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        part, heads = _part(tensor.source, start, stop), (stop - start) // unit if tensor.heads else 0
        if is_rounded_alone:
            yield _rounded(part.read_raw(), heads, tensor)
        else:
            yield _computed(part.read_float32(), low_rank.rows(start, stop) if low_rank else None, heads, tensor)


def _rounded(bits: npt.NDArray[np.uint16], heads: int, tensor: TensorPlan) -> npt.NDArray[Any]:
    """bf16 to f16 with nothing between: less than half of the time that it takes by way of f32."""
    _check_range(bfloat16_to_float32((bits & np.uint16(0x7FFF)).max(keepdims=True)), tensor)
    halves = bfloat16_to_float16(bits)
    return interleave_halves(halves, heads) if heads else halves


def _computed(values: Floats, added: Floats | None, heads: int, tensor: TensorPlan) -> npt.NDArray[Any]:
    if added is not None:
        values += added
    if tensor.offset:
        values = values + np.float32(tensor.offset)
    if heads:
        values = interleave_halves(values, heads)
    _check_range(values, tensor)
    return _encode(values, tensor.storage)


class _LowRank:
    """scale * B @ A, a few rows at a time."""

    def __init__(self, module: LoraModule) -> None:
        self._a = module.a.read_float32()
        self._b = module.b.read_float32()
        self._scale = np.float32(module.scale)

    def rows(self, start: int, stop: int) -> Floats:
        product: Floats = self._b[start:stop] @ self._a
        product *= self._scale
        return product


def _elements(source: TensorInfo) -> int:
    return int(np.prod(source.shape))


def _part(source: TensorInfo, start: int, stop: int) -> TensorInfo:
    size = source.size // source.shape[0]
    return replace(
        source, shape=(stop - start, *source.shape[1:]), start=source.start + start * size, size=(stop - start) * size
    )


def _check_range(values: Floats, tensor: TensorPlan) -> None:
    peak = max(float(values.max()), -float(values.min()))
    if not peak < _LIMITS[tensor.storage]:  # so that NaN is caught as well
        fits = "its weights are broken" if not peak < np.inf else "export it as bf16 or f32"
        raise InvalidRequest(
            f"{tensor.source.name} holds {peak:.4g}, which {tensor.storage} cannot store: {fits}.",
            param="quantization",
            code="weights_out_of_range",
        )


def _encode(values: Floats, storage: Storage) -> npt.NDArray[Any]:
    if storage == "F16":
        return values.astype(np.float16)
    if storage == "BF16":
        return float32_to_bfloat16(values)
    if storage == "Q8_0":
        return _q8_0(values)
    return values


def _q8_0(values: Floats) -> npt.NDArray[np.uint8]:
    import gguf

    blocks: npt.NDArray[np.uint8] = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    return blocks

"""Writes a GGUF file in one pass and counts what it holds. It knows the format, not what the tensors mean."""

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np

from brie_convert.merge import tensor_blocks
from brie_convert.metadata import Value
from brie_convert.plan import TensorPlan
from brie_convert.progress import Advance
from brie_core.weights.gguf_header import read_gguf_header

_ALIGNMENT = 32
_ARRAY = struct.Struct("<IIQ")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a file."""

    architecture: str
    fields: Mapping[str, Value]
    tensors: Sequence[TensorPlan]
    rope_factors: Sequence[float]
    """Written as the tensor `rope_freqs.weight`; empty for none."""


@dataclass(frozen=True, slots=True)
class TensorTally:
    """What a file really stores, whatever its name says."""

    types: Mapping[str, int]
    """How many tensors are of each type."""
    weights: Mapping[str, int]
    """How many numbers are of each type."""
    parameters: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Over all tensors, norms and embedding included."""
        return 8 * self.bytes / self.parameters


class _Writer(gguf.GGUFWriter):
    """Packs a vocabulary's arrays at once: the library packs each of 150,000 items by itself, which takes a second."""

    def _pack_val(
        self,
        val: Any,
        vtype: gguf.GGUFValueType,
        add_vtype: bool,  # noqa: FBT001  # as the library calls it
        sub_type: gguf.GGUFValueType | None = None,
    ) -> bytes:
        kinds = set(map(type, val)) if vtype is gguf.GGUFValueType.ARRAY else set()
        if kinds == {str}:
            texts = [text.encode() for text in val]
            items = b"".join(_LENGTH.pack(len(text)) + text for text in texts)
            return _ARRAY.pack(vtype, gguf.GGUFValueType.STRING, len(val)) + items
        if kinds == {int}:
            return _ARRAY.pack(vtype, gguf.GGUFValueType.INT32, len(val)) + np.asarray(val, "<i4").tobytes()
        return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))


def write_gguf(file: Path, contents: Contents, advance: Advance) -> None:
    """Header first, then one tensor at a time in blocks of rows; memory stays at a few megabytes per block."""
    with closing(_Writer(file, contents.architecture)) as writer:
        for key, value in contents.fields.items():
            _add_field(writer, key, value)
        if contents.rope_factors:
            _add_tensor(writer, "rope_freqs.weight", (len(contents.rope_factors),), "F32")
        for tensor in contents.tensors:
            _add_tensor(writer, tensor.name, tensor.source.shape, tensor.storage)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    with file.open("ab") as stream:
        _write_tensors(stream, contents, advance)


def _write_tensors(stream: IO[bytes], contents: Contents, advance: Advance) -> None:
    """The data by hand: the writer takes only whole tensors, and an embedding alone can be gigabytes."""
    _pad(stream)
    if contents.rope_factors:
        stream.write(np.asarray(contents.rope_factors, dtype="<f4").tobytes())
        _pad(stream)
    total, done = sum(tensor.source.size for tensor in contents.tensors), 0
    for tensor in contents.tensors:
        for block in tensor_blocks(tensor):
            stream.write(block.data)
        _pad(stream)
        done += tensor.source.size
        advance(done / total)


def _pad(stream: IO[bytes]) -> None:
    stream.write(bytes(-stream.tell() % _ALIGNMENT))


def _add_tensor(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], storage: str) -> None:
    kind = gguf.GGMLQuantizationType[storage]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    # The dtype only tells the writer that `shape` counts elements and not bytes.
    writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) // elements * size, raw_dtype=kind)


def _add_field(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if value == "":
        raise ValueError(f"{key} is empty, and the writer would drop it without a word")
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def tally(file: Path) -> TensorTally:
    """The tensors a finished file holds, by type."""
    tensors = read_gguf_header(file).tensors
    kinds = [gguf.GGMLQuantizationType(tensor.kind) for tensor in tensors]
    elements = [math.prod(tensor.shape) for tensor in tensors]
    sizes = [_size(kind, count) for kind, count in zip(kinds, elements, strict=True)]
    types = Counter(kind.name for kind in kinds)
    weights: Counter[str] = Counter()
    for kind, count in zip(kinds, elements, strict=True):
        weights[kind.name] += count
    return TensorTally(dict(sorted(types.items())), weights, sum(elements), sum(sizes))


def _size(kind: gguf.GGMLQuantizationType, elements: int) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(elements // block * size)

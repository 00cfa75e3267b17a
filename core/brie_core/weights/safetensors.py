"""Reads safetensors headers and single tensors into numpy. It knows the format, not what a tensor is for.

The `safetensors` package reads bf16 only through torch, and the API, the store and the converter run without torch.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_MAX_HEADER = 100 * 2**20
_PART = 4 * 2**20
_MAX_DIMENSIONS, _MAX_SIZE = 8, 2**60  # so that a product of sizes cannot be a number of a million digits
_ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


class BrokenTensorFile(ValueError):
    """The bytes are not a safetensors file, or not the whole of one."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    """First byte of the data, from the beginning of the file."""
    size: int
    """Length of the data in bytes."""

    def read_raw(self, stream: BinaryIO | None = None) -> npt.NDArray[Any]:
        """The tensor in its stored form; bf16 comes as uint16 bit patterns.

        `stream` is its file, opened: whoever reads hundreds of tensors saves as many openings.
        """
        if self.dtype not in _FLOATS:
            raise BrokenTensorFile(f"{self.file.name}: {self.name} is {self.dtype}, which is no floating-point type")
        if stream is None:
            with self.file.open("rb", buffering=0) as opened:
                return self.read_raw(opened)
        raw = np.empty(self.shape, _FLOATS[self.dtype])
        stream.seek(self.start)
        if raw.size and stream.readinto(raw.reshape(-1).view(np.uint8)) != self.size:  # type: ignore[attr-defined]
            raise BrokenTensorFile(f"{self.file.name} ends within {self.name}")
        return raw

    def read_float32(self, stream: BinaryIO | None = None) -> npt.NDArray[np.float32]:
        """The tensor widened (exactly, for f16 and bf16) to f32."""
        raw = self.read_raw(stream)
        return bfloat16_to_float32(raw) if self.dtype == "BF16" else raw.astype(np.float32, copy=False)

    def read_bytes(self) -> bytes:
        """The stored bytes as they are."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


def same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors are stored alike, read a few megabytes at a time."""
    if one.size != other.size:
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        parts = (min(_PART, one.size - done) for done in range(0, one.size, _PART))
        return all(first.read(part) == second.read(part) for part in parts)


def bfloat16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widen bf16 bit patterns; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest bf16, ties to even, as bit patterns; `values` must be finite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return (rounded >> 16).astype(np.uint16)


def bfloat16_to_float16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float16]:
    """bf16 bit patterns rounded as numpy rounds them, but for 65536 and above, infinity and NaN, which are undefined.

    Where f16 is normal it holds every bf16 exactly: three more bits of fraction, and another bias of the exponent.
    """
    half = (bits << 3) - np.uint16(112 << 10 & 0xFFFF)  # what lies above 16 bits cancels out
    half |= bits & np.uint16(0x8000)
    is_small = (bits & np.uint16(0x7FFF)) < np.uint16(0x3880)  # 2 ** -14
    half[is_small] = bfloat16_to_float32(bits[is_small]).astype(np.float16).view(np.uint16)
    return half.view(np.float16)


def write_bfloat16(file: Path, tensors: Mapping[str, npt.NDArray[np.uint16]]) -> None:
    """Write bf16 bit patterns as one safetensors file that transformers loads."""
    from safetensors import TensorSpec, serialize_file

    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in tensors.items()
    }
    serialize_file(specs, file, {"format": "pt"})


def read_tensors(file: Path, max_header: int = _MAX_HEADER) -> dict[str, TensorInfo]:
    """The tensors of one file by name, from its header alone, of at most so many bytes; raises BrokenTensorFile."""
    length, header = _read_header(file, max_header)
    data_start, data_size = 8 + length, file.stat().st_size - 8 - length
    tensors = {name: _tensor(file, name, entry, data_start) for name, entry in header.items() if name != "__metadata__"}
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start != data_start + end:
            raise BrokenTensorFile(f"{file.name}: {tensor.name} overlaps its neighbour or leaves a hole")
        end += tensor.size
    if end != data_size:
        raise BrokenTensorFile(f"{file.name} holds {data_size} bytes of data where its header promises {end}")
    return tensors


def read_checkpoint(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of a Hugging Face folder, sharded or not; raises BrokenTensorFile."""
    index = folder / "model.safetensors.index.json"
    files = sorted(set(_weight_map(index).values())) if index.is_file() else ["model.safetensors"]
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        if not (folder / name).is_file():
            raise BrokenTensorFile(f"{folder} has no {name}")
        tensors |= read_tensors(folder / name)
    return tensors


def checkpoint_files(folder: Path) -> Iterator[Path]:
    """The files `read_checkpoint` reads, in a fixed order."""
    yield from sorted({tensor.file for tensor in read_checkpoint(folder).values()})


def _weight_map(index: Path) -> dict[str, str]:
    names: dict[str, str] = json.loads(index.read_text())["weight_map"]
    if any(Path(name).name != name for name in names.values()):
        raise BrokenTensorFile(f"{index.name} points outside its folder")
    return names


def _read_header(file: Path, most: int) -> tuple[int, dict[str, Any]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > most:
            raise BrokenTensorFile(
                f"{file.name} has a header of {length} bytes, where {most} are the most that are read"
            )
        if not 2 <= length <= file.stat().st_size - 8:
            raise BrokenTensorFile(f"{file.name} is truncated or no safetensors file (header of {length} bytes)")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise BrokenTensorFile(f"{file.name} has an unreadable header: {error}") from error
    if not isinstance(header, dict):
        raise BrokenTensorFile(f"{file.name} has a header that is no object")
    return length, header


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        sizes = (*shape, begin, end)
        sound = len(shape) <= _MAX_DIMENSIONS and dtype in _ITEM_SIZES
        sound = sound and all(isinstance(n, int) and 0 <= n < _MAX_SIZE for n in sizes)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenTensorFile(f"{file.name}: {name} has a malformed entry") from error
    if not sound or end - begin != math.prod(shape) * _ITEM_SIZES[dtype]:
        raise BrokenTensorFile(f"{file.name}: {name} has a size that does not match its shape and type")
    return TensorInfo(name, dtype, shape, file, data_start + begin, end - begin)

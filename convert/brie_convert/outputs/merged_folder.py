"""The format merged: base and adapter as one Hugging Face folder. It knows files and dtypes, no llama.cpp.

What no adapter touches and no other dtype was asked for is copied byte by byte; the rest goes through the same pass of
row blocks as into a GGUF file, merged in f32 and rounded once.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from brie_convert.manifest import ExportRequest, Made, Sources
from brie_convert.merge import tensor_blocks
from brie_convert.plan import Storage, TensorPlan
from brie_convert.progress import Progress, span
from brie_convert.safetensors_file import Entry, write_safetensors
from brie_core.errors import EngineFailure, InvalidRequest
from brie_core.weights.base_model import read_json
from brie_core.weights.lora import LoraModule
from brie_core.weights.safetensors import TensorInfo, read_checkpoint

SHARD_BYTES = 5 * 10**9
_COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "generation_config.json", "chat_template.jinja"),
)
_TEMPLATE = "chat_template.jinja"
_CHUNK = 4 * 2**20
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_STORAGES: Mapping[str, Storage] = {"F64": "F32", "F32": "F32", "F16": "F16", "BF16": "BF16"}
_ROUNDING = {"F64": 0.0, "F32": 2.0**-20, "F16": 2.0**-10, "BF16": 2.0**-7}
"""What a merged number may be off by, relative to itself; below f16's normal numbers by an absolute share of them."""
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class MergeVerification:
    """What was read back."""

    tensors: int
    merged: int
    rows: int
    """Computed again in f64, and found in the files up to one rounding."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    source: TensorInfo
    dtype: str
    lora: LoraModule | None

    @property
    def size(self) -> int:
        return math.prod(self.source.shape) * _SIZES[self.dtype] if self.dtype in _SIZES else self.source.size

    @property
    def is_copied(self) -> bool:
        return self.lora is None and self.dtype == self.source.dtype


class MergedFolderOutput:
    """See `pipeline.Output`."""

    def __init__(self, request: ExportRequest, sources: Sources, shard_bytes: int = SHARD_BYTES) -> None:
        self._base, self._sources, self._shard_bytes = request.base, sources, shard_bytes
        self._dtype = request.dtype.upper() if request.dtype else None
        adapter = sources.adapter
        modules = {f"{module.name}.weight": module for module in adapter.modules} if adapter else {}
        self._tensors = [_tensor(info, modules.get(name), self._dtype) for name, info in self._base.tensors.items()]

    def most_bytes(self) -> int:
        """All weights."""
        return sum(tensor.size for tensor in self._tensors)

    def build(self, folder: Path, scratch: Path, progress: Progress) -> Made:
        """Write the folder and read it back; raises InvalidRequest for numbers that do not fit, EngineFailure."""
        weights = self._write_weights(folder, progress)
        others = [*self._write_config(folder), *self._copy(folder)]
        progress("reading the weights back", 0.85)
        verification = asdict(_read_back(folder, self._tensors))
        stored = {tensor.dtype for tensor in self._tensors}
        return Made([*weights, *others], {"dtypes": sorted(stored), "verification": verification})

    def _write_weights(self, folder: Path, progress: Progress) -> list[str]:
        shards = _shards(self._tensors, self._shard_bytes)
        names = _shard_names(len(shards))
        for done, (name, shard) in enumerate(zip(names, shards, strict=True)):
            start, end = (0.05 + 0.8 * (done + more) / len(shards) for more in (0, 1))
            entries = [Entry(t.source.name, t.dtype, t.source.shape, t.size, _blocks_of(t)) for t in shard]
            write_safetensors(folder / name, entries, span(progress, "merging and writing", start, end))
        if len(shards) == 1:
            return names
        placed = {t.source.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": self.most_bytes()}, "weight_map": dict(sorted(placed.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        return [*names, "model.safetensors.index.json"]

    def _write_config(self, folder: Path) -> list[str]:
        config = {name: value for name, value in self._base.config.items() if name not in {"_name_or_path", "dtype"}}
        old = config.pop("torch_dtype", None)
        known = self._base.config.get("dtype") or old
        config["dtype"] = _NAMES[self._dtype] if self._dtype else known or _usual_dtype(self._tensors)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        return ["config.json"]

    def _copy(self, folder: Path) -> list[str]:
        """The base's files about text, with the adapter's chat template in place of the base's."""
        found = [name for name in _COPIED if (self._base.folder / name).is_file()]
        for name in found:
            shutil.copyfile(self._base.folder / name, folder / name)
        _forget_places(folder / "tokenizer_config.json")
        template, file = self._sources.tokenizer.chat_template, folder / _TEMPLATE
        if template and not (file.is_file() and file.read_text() == template.source):
            file.write_text(template.source)
        return sorted({*found, *([_TEMPLATE] if template else [])})


def _tensor(info: TensorInfo, lora: LoraModule | None, wanted: str | None) -> _Tensor:
    if info.dtype not in _SIZES:  # a buffer of whole numbers
        return _Tensor(info, info.dtype, None)
    merged = _STORAGES[info.dtype] if lora else info.dtype
    return _Tensor(info, wanted or merged, lora)


def _blocks_of(tensor: _Tensor) -> Any:
    return lambda: _copied(tensor.source) if tensor.is_copied else _merged(tensor)


def _copied(source: TensorInfo) -> Iterator[bytes]:
    with source.file.open("rb") as stream:
        stream.seek(source.start)
        left = source.size
        while left and (chunk := stream.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _merged(tensor: _Tensor) -> Iterator[Any]:
    plan = TensorPlan(
        name=tensor.source.name, source=tensor.source, storage=_STORAGES[tensor.dtype], heads=None, lora=tensor.lora
    )
    try:
        for block in tensor_blocks(plan):
            yield np.ascontiguousarray(block).data
    except InvalidRequest as error:  # there it is the quantization's fault
        raise InvalidRequest(error.message, param="dtype", code=error.code) from error


def _shards(tensors: list[_Tensor], most: int) -> list[list[_Tensor]]:
    """In the checkpoint's order; a tensor that alone is larger has a file of its own."""
    shards: list[list[_Tensor]] = [[]]
    room = most
    for tensor in tensors:
        if shards[-1] and tensor.size > room:
            shards.append([])
            room = most
        shards[-1].append(tensor)
        room -= tensor.size
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _usual_dtype(tensors: list[_Tensor]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return _NAMES.get(max(sizes, key=lambda dtype: sizes[dtype]), "float32")


def _forget_places(file: Path) -> None:
    """A tokenizer's config may say in which folder it was found."""
    if file.is_file():
        config = read_json(file)
        kept = {name: value for name, value in config.items() if name not in {"name_or_path", "chat_template"}}
        if kept != config:
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def _read_back(folder: Path, tensors: list[_Tensor]) -> MergeVerification:
    """All tensors by name, shape and dtype; the first, middle and last row of each by their numbers."""
    found = read_checkpoint(folder)
    for tensor in tensors:
        written = found.get(tensor.source.name)
        if written is None or (written.shape, written.dtype) != (tensor.source.shape, tensor.dtype):
            _fail(f"{tensor.source.name} is not there as it should be")
    if len(found) != len(tensors):
        _fail(f"there are {len(found)} tensors in place of {len(tensors)}")
    rows = sum(_compare(tensor, found[tensor.source.name]) for tensor in tensors if tensor.dtype in _SIZES)
    return MergeVerification(len(found), sum(tensor.lora is not None for tensor in tensors), rows)


def _compare(tensor: _Tensor, written: TensorInfo) -> int:
    count = tensor.source.shape[0] if tensor.source.shape else 0
    rows = sorted({0, count // 2, count - 1}) if count else []
    b = tensor.lora.b.read_float32() if tensor.lora else None
    a = tensor.lora.a.read_float32().astype(np.float64) if tensor.lora else None
    for row in rows:
        expected = _row(tensor.source, row)
        largest = float(np.abs(expected).max())
        if tensor.lora is not None and a is not None and b is not None:
            change = tensor.lora.scale * (b[row].astype(np.float64) @ a)
            expected = expected + change
            largest = max(largest, float(np.abs(change).max()))
        allowed = _ROUNDING[tensor.dtype] * np.abs(expected) + _ROUNDING["F32"] * largest + 2.0**-24
        if not (np.abs(_row(written, row) - expected) <= allowed).all():
            _fail(f"row {row} of {tensor.source.name} is not the merged one")
    return len(rows)


def _row(info: TensorInfo, row: int) -> npt.NDArray[np.float64]:
    size = info.size // info.shape[0]
    part = replace(info, shape=(1, *info.shape[1:]), start=info.start + row * size, size=size)
    return part.read_float32().astype(np.float64).reshape(-1)


def _fail(what: str) -> NoReturn:
    raise EngineFailure(f"The merged folder is not the model: {what}.", code="export_verification_failed")

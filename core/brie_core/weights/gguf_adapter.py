"""Writes a LoRA adapter as a GGUF file for llama.cpp. It knows both layouts, and runs nothing.

llama.cpp multiplies by alpha / rank, with one alpha for the whole file. So whatever else scales a module (rsLoRA,
alpha_pattern, rank_pattern) is folded into its B; upstream's converter leaves it out without a word. Besides the
numbers only what the caller gives is written: no name of its own, and no path.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from brie_core.errors import InvalidAdapter
from brie_core.weights.gguf_layout import LINEAR_LAYERS, interleave_halves, regrouped_heads, tensor_of
from brie_core.weights.lora import LoraAdapter, LoraModule

_ALIGNMENT = 32
_Floats = npt.NDArray[np.float32]


class Heads(Protocol):
    """A base model as far as the order of its rows goes."""

    @property
    def family(self) -> str:
        """The architecture, in llama.cpp's words."""
        ...

    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...


def write_gguf_adapter(file: Path, adapter: LoraAdapter, model: Heads, origin: Mapping[str, str] | None = None) -> None:
    """`adapter`, which was read against `model`, in f32, one module at a time; `origin` goes into the header as it is.

    Raises InvalidAdapter for a layer without a place.
    """
    import gguf

    alpha = float(adapter.config["r"])
    places = [_place(module) for module in adapter.modules]
    with closing(gguf.GGUFWriter(file, model.family)) as writer:
        fields = {"general.type": "adapter", **(origin or {}), "adapter.type": "lora"}
        for key, value in fields.items():
            writer.add_string(key, value)
        writer.add_float32("adapter.lora.alpha", alpha)
        for module, place in zip(adapter.modules, places, strict=True):
            for side, info in (("a", module.a), ("b", module.b)):
                size = 4 * info.shape[0] * info.shape[1]
                writer.add_tensor_info(f"{place}.lora_{side}", info.shape, np.dtype(np.float32), size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    with file.open("ab") as stream:  # by hand: the writer's way through numpy does not say when a disk is full
        for module in adapter.modules:
            for values in (module.a.read_float32(), _folded(module, model, alpha)):
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
                stream.write(np.ascontiguousarray(values).data)
        stream.write(bytes(-stream.tell() % _ALIGNMENT))


def _folded(module: LoraModule, model: Heads, alpha: float) -> _Floats:
    """B with all of the module's scale but alpha / rank, its rows in the order of the base's."""
    b: _Floats = module.b.read_float32() * np.float32(module.scale * module.rank / alpha)
    heads = regrouped_heads(model.family, module.name, model.heads, model.kv_heads)
    return interleave_halves(b, heads) if heads else b


def _place(module: LoraModule) -> str:
    try:
        return tensor_of(module.name)
    except KeyError as error:
        raise InvalidAdapter(
            f"{module.name} has no place in a GGUF adapter; these have: {', '.join(LINEAR_LAYERS)}.",
            code="adapter_unsupported",
        ) from error

"""Writes a LoRA adapter as a GGUF file for llama.cpp. It knows both layouts, and runs nothing.

llama.cpp multiplies by alpha / rank, with one alpha for the whole file. So whatever else scales a module (rsLoRA,
alpha_pattern, rank_pattern) is folded into its B; upstream's converter leaves it out without a word. Nothing but the
numbers is written: no name and no path.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from brie_core.errors import InvalidAdapter
from brie_core.weights.gguf_layout import LINEAR_LAYERS, interleave_halves, regrouped_heads, tensor_of
from brie_core.weights.gguf_model import GgufModel
from brie_core.weights.lora import LoraAdapter, LoraModule

_Floats = npt.NDArray[np.float32]


def write_gguf_adapter(file: Path, adapter: LoraAdapter, model: GgufModel) -> None:
    """`adapter`, which was read against `model`, in f32; raises InvalidAdapter for a layer without a place."""
    import gguf

    alpha = float(adapter.config["r"])
    with closing(gguf.GGUFWriter(file, model.family)) as writer:
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for module in adapter.modules:
            for name, values in _tensors(module, model, alpha):
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _tensors(module: LoraModule, model: GgufModel, alpha: float) -> Iterator[tuple[str, _Floats]]:
    tensor = _place(module)
    b = module.b.read_float32() * np.float32(module.scale * module.rank / alpha)
    if heads := regrouped_heads(model.family, module.name, model.heads, model.kv_heads):
        b = interleave_halves(b, heads)
    yield f"{tensor}.lora_a", module.a.read_float32()
    yield f"{tensor}.lora_b", b


def _place(module: LoraModule) -> str:
    try:
        return tensor_of(module.name)
    except KeyError as error:
        raise InvalidAdapter(
            f"{module.name} has no place in a GGUF adapter; these have: {', '.join(LINEAR_LAYERS)}.",
            code="adapter_unsupported",
        ) from error

"""Reads a LoRA adapter for llama.cpp back as a PEFT folder. It knows both layouts, and runs nothing.

llama.cpp multiplies by alpha / rank(B), which is what PEFT does with one lora_alpha and a rank_pattern: so nothing but
the order of rows and the names of tensors has to be undone.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brie_core.errors import InvalidAdapter
from brie_core.weights.gguf_adapter import Heads
from brie_core.weights.gguf_header import read_gguf_header
from brie_core.weights.gguf_layout import module_of, regrouped_heads, separate_halves

_TENSOR = re.compile(r"(?P<place>.+)\.lora_(?P<side>[ab])")
_WEIGHTS = "adapter_model.safetensors"
_FLOATS = ("F32", "F16", "BF16")
_Floats = npt.NDArray[np.float32]


def write_peft_folder(file: Path, folder: Path, model: Heads, base_digest: str) -> None:
    """`file`, an adapter of `model`, as adapter_config.json and adapter_model.safetensors; raises InvalidAdapter.

    Whether the tensors fit the model is for `read_adapter` to say, of the folder.
    """
    from safetensors.numpy import save_file

    fields, tensors = _read(file)
    _check(fields, model, base_digest)
    named = {_name(name): _restored(name, values, model) for name, values in tensors.items()}
    ranks = {name.removesuffix(".lora_B.weight"): b.shape[1] for name, b in named.items() if ".lora_B" in name}
    if not ranks:
        raise InvalidAdapter("The GGUF file holds no adapter.", code="adapter_no_modules_matched")
    save_file({f"base_model.model.{name}": values for name, values in named.items()}, folder / _WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps(_config(ranks, float(fields["adapter.lora.alpha"]))))


def _read(file: Path) -> tuple[dict[str, Any], dict[str, _Floats]]:
    import gguf

    try:
        read_gguf_header(file)  # the package would make room for whatever counts a header names
        reader = gguf.GGUFReader(file)
        wanted = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
        names = (*wanted, "brie.base_model.digest")
        fields = {name: reader.fields[name].contents() for name in names if name in reader.fields}
        tensors = {tensor.name: _values(tensor) for tensor in reader.tensors}
    except InvalidAdapter:
        raise
    except Exception as error:  # of a damaged file the package raises whatever it stumbles over
        raise InvalidAdapter(f"{file.name} is not a whole GGUF file.", code="adapter_weights_corrupt") from error
    if missing := [name for name in wanted if name not in fields]:
        raise InvalidAdapter(f"{file.name} lacks {missing[0]}.", code="adapter_config_invalid")
    return fields, tensors


def _values(tensor: Any) -> _Floats:
    import gguf

    if tensor.tensor_type.name not in _FLOATS:
        kind = tensor.tensor_type.name
        raise InvalidAdapter(f"{tensor.name} is stored as {kind}: give one in f32 or f16.", code="adapter_unsupported")
    values: _Floats = np.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    return values


def _check(fields: Mapping[str, Any], model: Heads, base_digest: str) -> None:
    if (fields["general.type"], fields["adapter.type"]) != ("adapter", "lora"):
        raise InvalidAdapter("The GGUF file is no LoRA adapter.", code="adapter_unsupported")
    if fields["general.architecture"] != model.family:
        raise InvalidAdapter(
            f"The adapter is of the architecture {fields['general.architecture']}, and the model of {model.family}.",
            code="adapter_no_modules_matched",
        )
    if (digest := fields.get("brie.base_model.digest")) not in (None, base_digest):
        raise InvalidAdapter(
            f"The adapter names a base with weights {str(digest)[:12]}; those here are {base_digest[:12]}.",
            code="adapter_base_mismatch",
        )


def _name(tensor: str) -> str:
    """As PEFT calls it, without its prefix."""
    found = _TENSOR.fullmatch(tensor)
    module = module_of(found["place"]) if found else None
    if found is None or module is None:
        raise InvalidAdapter(f"There is no place for the adapter's {tensor}.", code="adapter_unexpected_keys")
    return f"{module}.lora_{found['side'].upper()}.weight"


def _restored(tensor: str, values: _Floats, model: Heads) -> _Floats:
    """B's rows in the checkpoint's order; A has none that move."""
    if tensor.endswith(".lora_a"):
        return values
    module = _name(tensor).removesuffix(".lora_B.weight")
    heads = regrouped_heads(model.family, module, model.heads, model.kv_heads)
    return separate_halves(values, heads) if heads and len(values) % (2 * heads) == 0 else values


def _config(ranks: Mapping[str, int], alpha: float) -> dict[str, Any]:
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(name): rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": alpha,
        "rank_pattern": others,
        "target_modules": sorted(ranks),
    }

"""Which checkpoint tensor, with which adapter module, becomes which GGUF tensor. Pure data: it reads no weights.

The plan is complete or it is an error: every tensor of the checkpoint has its place, every place its tensor, and every
module of the adapter is merged exactly once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from brie_convert.architecture import Architecture
from brie_core.errors import InvalidAdapter, InvalidRequest
from brie_core.weights.gguf_layout import LINEAR_LAYERS, regrouped_heads
from brie_core.weights.lora import LoraAdapter, LoraModule
from brie_core.weights.safetensors import TensorInfo, same_bytes

Storage = Literal["F32", "F16", "BF16", "Q8_0"]
"""How the numbers of one tensor are stored; the names are ggml's."""

_OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_OUTPUT = "lm_head.weight"
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"{module}.weight": f"{name}.weight" for module, name in LINEAR_LAYERS.items()},
}
_ATTENTION_BIASES = {f"self_attn.{name}_proj.bias": f"attn_{name}.bias" for name in "qkv"}
_HEAD_NORMS = {f"self_attn.{name}_norm.weight": f"attn_{name}_norm.weight" for name in "qk"}
_GEMMA = _LAYER | {
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
}
_LAYERS = {
    "llama": _LAYER,
    "qwen2": _LAYER | _ATTENTION_BIASES,
    "qwen3": _LAYER | _HEAD_NORMS,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA | _HEAD_NORMS,
}

_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
_STORED: Mapping[str, Storage] = {"F64": "F32", "F32": "F32", "F16": "F16", "BF16": "BF16"}


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the file to be."""

    name: str
    """In the GGUF."""
    source: TensorInfo
    storage: Storage
    heads: int | None
    """The rows are regrouped for the rotary pairs of this many heads; None leaves them as they are."""
    lora: LoraModule | None
    """Merged into the source on the way."""
    offset: float = 0.0
    """Added to every number."""


def plan_tensors(
    architecture: Architecture,
    tensors: Mapping[str, TensorInfo],
    adapter: LoraAdapter | None,
    storage: Storage | None,
) -> tuple[TensorPlan, ...]:
    """The tensors of the file in order; `storage` None keeps the checkpoint's own, and f32 where something is merged.

    Raises InvalidRequest for a checkpoint that does not fit its config, InvalidAdapter for a module without a place.
    """
    places = dict(_places(architecture, tensors))
    _check_checkpoint(architecture, tensors, places)
    modules = {f"{module.name}.weight": module for module in adapter.modules} if adapter else {}
    if unplaced := modules.keys() - places.keys():
        raise InvalidAdapter(
            f"The adapter changes {min(unplaced)}, which the file does not hold: it cannot be merged.",
            code="adapter_unexpected_keys",
        )
    return tuple(
        _tensor(architecture, name, tensors[source], modules.get(source), storage) for source, name in places.items()
    )


def _places(architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    """(checkpoint name, GGUF name) of all that the file holds."""
    yield from _OUTSIDE.items()
    for layer in range(architecture.layers):
        for source, name in _LAYERS[architecture.family].items():
            yield f"model.layers.{layer}.{source}", f"blk.{layer}.{name}"
    if not architecture.tied:
        yield _OUTPUT, "output.weight"


def _check_checkpoint(architecture: Architecture, tensors: Mapping[str, TensorInfo], places: Mapping[str, str]) -> None:
    if missing := places.keys() - tensors.keys():
        _refuse(f"the checkpoint lacks {min(missing)}, which the config promises")
    rest = {name for name in tensors.keys() - places.keys() if not _BUFFER.fullmatch(name)}
    if architecture.tied:
        rest.discard(_OUTPUT)  # a second copy of the embedding; `check_tied` compares them
    if rest:
        _refuse(f"the file has no place for {len(rest)} tensors of the checkpoint, such as {min(rest)}")
    if strange := [name for name in places if tensors[name].dtype not in _STORED]:
        _refuse(f"{strange[0]} is stored as {tensors[strange[0]].dtype}")


def check_tied(architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> None:
    """A checkpoint that ties its output to the embedding and yet brings another output raises InvalidRequest."""
    if architecture.tied and _OUTPUT in tensors:
        output, embedding = tensors[_OUTPUT], tensors["model.embed_tokens.weight"]
        if output.dtype != embedding.dtype or not same_bytes(output, embedding):
            _refuse("tie_word_embeddings is set, but lm_head.weight is not the embedding")


def _tensor(
    architecture: Architecture, name: str, source: TensorInfo, lora: LoraModule | None, storage: Storage | None
) -> TensorPlan:
    offset = architecture.norm_offset if source.name.endswith("norm.weight") else 0.0
    return TensorPlan(name, source, _storage(source, lora, storage), _heads(architecture, source.name), lora, offset)


def _storage(source: TensorInfo, lora: LoraModule | None, wanted: Storage | None) -> Storage:
    if len(source.shape) == 1:
        return "F32"  # norms and biases: llama.cpp adds them in f32, and they weigh nothing
    if wanted is None:
        return "F32" if lora else _STORED[source.dtype]
    return "F16" if wanted == "Q8_0" and source.shape[-1] % 32 else wanted


def _heads(architecture: Architecture, source: str) -> int | None:
    module = source.rpartition(".")[0]
    return regrouped_heads(architecture.family, module, architecture.heads, architecture.kv_heads)


def _refuse(what: str) -> NoReturn:
    raise InvalidRequest(
        f"This model cannot be exported to GGUF: {what}.", param="model", code="unsupported_architecture"
    )

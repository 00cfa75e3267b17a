"""Where a Hugging Face layer lies in a GGUF file, and in which order its rows do. It reads and writes nothing."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

LINEAR_LAYERS: Mapping[str, str] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""The linear layers of a block; Hugging Face's names on the left, GGUF's on the right."""
REGROUPED: Mapping[str, Mapping[str, str]] = {
    "llama": {"q_proj": "heads", "k_proj": "kv_heads"},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {},
    "gemma3": {},
}
"""By architecture, the layers whose rows move, and which heads they are of.

GGUF's llama rotates neighbouring pairs where Hugging Face's rotates two halves. An architecture that is not listed is
not known well enough to say which of its rows move."""

_GGUF_NAMES = {gguf: name for name, gguf in LINEAR_LAYERS.items()}
_GGUF_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_MODULE = re.compile(r"model\.layers\.(\d+)\.(.+)")

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]


def regrouped_heads(family: str, module: str, heads: int, kv_heads: int) -> int | None:
    """For how many heads the rows of `module` are regrouped in the file; None leaves them as they are."""
    which = REGROUPED.get(family, {}).get(module.rsplit(".", 1)[-1])
    return None if which is None else heads if which == "heads" else kv_heads


def module_of(tensor: str) -> str | None:
    """The Hugging Face name of the linear layer behind a GGUF tensor; None for any other tensor."""
    match = _GGUF_TENSOR.fullmatch(tensor)
    name = _GGUF_NAMES.get(match[2]) if match else None
    return f"model.layers.{match[1]}.{name}" if match and name else None


def tensor_of(module: str) -> str:
    """The GGUF tensor of a linear layer; raises KeyError for what is none."""
    match = _MODULE.fullmatch(module)
    if match is None:
        raise KeyError(module)
    return f"blk.{match[1]}.{LINEAR_LAYERS[match[2]]}.weight"


def interleave_halves(values: Numbers, heads: int) -> Numbers:
    """Rows of each head from two halves (Hugging Face) to neighbouring pairs (GGUF); biases as well as matrices."""
    rows, *rest = values.shape
    return np.ascontiguousarray(values.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2)).reshape(
        values.shape
    )


def separate_halves(values: Floats, heads: int) -> Floats:
    """The way back: rows of each head from neighbouring pairs (GGUF) to two halves (Hugging Face)."""
    rows, *rest = values.shape
    return np.ascontiguousarray(values.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2)).reshape(
        values.shape
    )

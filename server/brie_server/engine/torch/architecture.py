"""What a config.json says a model is, as a frozen table of switches. It knows no tensors, and refuses what Brie lacks.

A switch that were ignored would give a model that answers, only wrongly; so anything not implemented is an error here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from brie_core.errors import BadConfiguration


class Site(StrEnum):
    """The matrix products of one layer; those with one input are fused to one product."""

    QKV = "qkv"
    O = "o"  # noqa: E741  # the projection's name in every checkpoint
    GATE_UP = "gate_up"
    DOWN = "down"


PARTS = {
    Site.QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    Site.O: ("self_attn.o_proj",),
    Site.GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
    Site.DOWN: ("mlp.down_proj",),
}
"""The checkpoint's linear layers in each site, in the order in which their outputs are stacked."""


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's stretching of the slow rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder of the llama shape."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    qkv_bias: bool
    qk_norm: bool
    """Whether each query and key head is normalised before the rotary embedding."""
    tied_head: bool
    """Whether the output projection is the embedding."""

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one token leaves in the cache."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    @property
    def windows(self) -> frozenset[int | None]:
        """The attention windows of its layers; None looks at the whole context."""
        return frozenset({None})

    def module(self, layer: int, part: str) -> str:
        """A part's name in the checkpoint and in adapters."""
        return f"model.layers.{layer}.{part}"

    def shape(self, part: str) -> tuple[int, int]:
        """(out, in) of a part's matrix."""
        query, key = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (query, self.hidden_size),
            "k_proj": (key, self.hidden_size),
            "v_proj": (key, self.hidden_size),
            "o_proj": (self.hidden_size, query),
            "gate_proj": (self.intermediate_size, self.hidden_size),
            "up_proj": (self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }[part.rpartition(".")[2]]


_QKV_BIAS = {"llama": False, "qwen2": True, "qwen3": False}
_QK_NORM = {"llama": False, "qwen2": False, "qwen3": True}
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "hidden_act": (None, "silu"),
    "use_sliding_window": (None, False),
    "quantization_config": (None,),
    "dual_chunk_attention_config": (None,),
    "partial_rotary_factor": (None, 1.0),
}
"""Switches that change the forward pass, each with the values that Brie implements."""


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The switches in a config.json; raises BadConfiguration naming the first thing that is not implemented."""
    family = config.get("model_type")
    if family not in _QKV_BIAS:
        raise BadConfiguration(f"model_type is {family!r}; the torch engine runs {', '.join(_QKV_BIAS)}.")
    _refuse_unknown(config)
    rope = _rope(config)
    try:
        return Architecture(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=int(config["num_attention_heads"]),
            num_kv_heads=int(config.get("num_key_value_heads") or config["num_attention_heads"]),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]),
            rms_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            rope_scaling=_rope_scaling(rope),
            qkv_bias=_QKV_BIAS[family],
            qk_norm=_QK_NORM[family],
            tied_head=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadConfiguration(f"config.json cannot be used: {type(error).__name__} {error}.") from error


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    for name, implemented in _REFUSED.items():
        if config.get(name) not in implemented:
            raise BadConfiguration(
                f"config.json sets {name} to {config[name]!r}, which the torch engine does not have."
            )
    # a window in the config of a family that switches it off elsewhere is no window
    windowed = config.get("sliding_window") is not None and "use_sliding_window" not in config
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if windowed or kinds:
        raise BadConfiguration(
            f"config.json asks for {', '.join(sorted(kinds)) or 'sliding_window'}; "
            "the torch engine has only full attention."
        )


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, as `rope_parameters` (transformers 5) or `rope_scaling` (before)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        raise BadConfiguration(f"config.json has rotary settings that the torch engine does not have: {rope!r}.")
    known = {"rope_theta", "rope_type", "type", *_LLAMA3}
    if odd := sorted(name for name in rope.keys() - known if (name, rope[name]) != ("partial_rotary_factor", 1.0)):
        raise BadConfiguration(f"config.json has the rotary setting {odd[0]}, which the torch engine does not have.")
    return rope


_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def _rope_scaling(rope: Mapping[str, Any]) -> Llama3Scaling | None:
    kind = rope.get("rope_type") or rope.get("type", "default")
    if kind == "default":
        return None
    if kind != "llama3":
        raise BadConfiguration(
            f"config.json asks for rotary scaling {kind!r}; the torch engine has default and llama3."
        )
    factor, low, high, original = (rope[name] for name in _LLAMA3)
    return Llama3Scaling(float(factor), float(low), float(high), int(original))

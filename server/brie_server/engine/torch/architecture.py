"""What a model is, read from its config.json: sizes, layers, its family's switches. It knows no tensors.

The forward pass asks for nothing else; what a family may switch on stands in `families`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from brie_core.errors import BadConfiguration
from brie_server.engine.torch.families import Switches, read_family, read_kinds, read_window
from brie_server.engine.torch.rotary import FULL, SLIDING, Rope, read_rope, read_rope_by_kind


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
class Attention:
    """What may differ from layer to layer."""

    window: int | None
    """How many positions back it sees, its own included; None is all. The cache holds them all either way."""
    rope: Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder of the llama shape."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    attentions: tuple[Attention, ...]
    """One for each layer."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    score_scale: float
    """Multiplies the products of queries and keys."""
    rms_eps: float
    tied_head: bool
    """Whether the output projection is the embedding."""
    switches: Switches

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.attentions)

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one token leaves in the cache."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    @property
    def windows(self) -> frozenset[int | None]:
        """The attention windows of its layers; None looks at the whole context."""
        return frozenset(attention.window for attention in self.attentions)

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


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The switches in a config.json; raises BadConfiguration naming the first thing that is not implemented."""
    switches = read_family(config)
    try:
        heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
        return Architecture(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            attentions=_attentions(config, switches),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            score_scale=_score_scale(config, switches, head_dim),
            rms_eps=float(config.get("rms_norm_eps", 1e-6)),
            tied_head=bool(config.get("tie_word_embeddings", switches.tied_by_default)),
            switches=switches,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadConfiguration(f"config.json cannot be used: {type(error).__name__} {error}.") from error


def _attentions(config: Mapping[str, Any], switches: Switches) -> tuple[Attention, ...]:
    window = read_window(config, switches.windows)
    kinds = read_kinds(config, switches.windows, window)
    ropes = read_rope_by_kind(config) if switches.rope_by_kind else dict.fromkeys((FULL, SLIDING), read_rope(config))
    return tuple(Attention(window if kind == SLIDING else None, ropes[kind]) for kind in kinds)


def _score_scale(config: Mapping[str, Any], switches: Switches, head_dim: int) -> float:
    scalar = config.get("query_pre_attn_scalar", switches.score_scalar) if switches.score_scalar else head_dim
    scale: float = float(scalar) ** -0.5
    return scale

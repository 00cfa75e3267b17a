"""What each family of models switches on, and which layers see a window. It knows config.json, and no tensors.

A switch that were ignored would give a model that answers, only wrongly; so anything not implemented is an error here.
What a config.json leaves out is what transformers takes it for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Any

from brie_core.errors import BadConfiguration
from brie_server.engine.torch.rotary import FULL, SLIDING


class Activation(StrEnum):
    """What the gate of the feed-forward part goes through, in config.json's words."""

    SILU = "silu"
    GELU_TANH = "gelu_pytorch_tanh"


class Windows(Enum):
    """Which layers see only a window of the context."""

    NONE = auto()
    ALL = auto()
    LAST = auto()
    """Those from max_window_layers on, or as layer_types says, once use_sliding_window allows it."""
    MOST = auto()
    """All but each one at the end of a sliding_window_pattern, or as layer_types says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """How a family's layers differ from llama's."""

    activation: Activation = Activation.SILU
    windows: Windows = Windows.NONE
    qkv_bias: bool = False
    qk_norm: bool = False
    """Whether each query and key head is normalised before the rotary embedding."""
    output_norms: bool = False
    """Whether what attention and feed-forward part give is normalised before it is added."""
    norms_from_one: bool = False
    """Whether a norm's weight is stored as its distance from one; such norms are float32 up to their last rounding."""
    scaled_embedding: bool = False
    """Whether embeddings are multiplied with the root of their size on the way in."""
    rope_by_kind: bool = False
    """Whether layers with a window have rotary settings of their own."""
    score_scalar: int | None = None
    """What query_pre_attn_scalar is by default, by whose root scores are divided; None has the head's size instead."""
    tied_by_default: bool = False
    """Whether the embedding is the output projection unless config.json denies it."""


FAMILIES: Mapping[str, Switches] = {
    "llama": Switches(),
    "qwen2": Switches(windows=Windows.LAST, qkv_bias=True),
    "qwen3": Switches(windows=Windows.LAST, qk_norm=True),
    "mistral": Switches(windows=Windows.ALL),
    "gemma3_text": Switches(
        windows=Windows.MOST,
        activation=Activation.GELU_TANH,
        qk_norm=True,
        output_norms=True,
        norms_from_one=True,
        scaled_embedding=True,
        rope_by_kind=True,
        score_scalar=256,
        tied_by_default=True,
    ),
}
"""By model_type."""

_REFUSED: Mapping[str, tuple[object, ...]] = {
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "quantization_config": (None,),
    "dual_chunk_attention_config": (None,),
    "partial_rotary_factor": (None, 1.0),
    "use_bidirectional_attention": (None, False),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
}
"""Settings that change the forward pass, each with the values that Brie implements."""


def read_family(config: Mapping[str, Any]) -> Switches:
    """The family's row of the table; raises BadConfiguration naming the first thing that is not implemented."""
    family = config.get("model_type")
    switches = FAMILIES.get(str(family))
    if switches is None:
        raise BadConfiguration(f"model_type is {family!r}; the torch engine runs {', '.join(FAMILIES)}.")
    for name, values in {**_REFUSED, **_refused_by_family(config, switches)}.items():
        if config.get(name) not in values:
            raise _missing(name, config[name])
    return switches


def _refused_by_family(config: Mapping[str, Any], switches: Switches) -> Mapping[str, tuple[object, ...]]:
    activations = (None, switches.activation)
    refused: dict[str, tuple[object, ...]] = {"hidden_act": activations, "hidden_activation": activations}
    if switches.windows is Windows.NONE:
        refused["use_sliding_window"] = (None, False)
        # a window in the config of a family that switches it off elsewhere is no window
        if "use_sliding_window" not in config:
            refused["sliding_window"] = (None,)
    elif switches.windows is not Windows.LAST:
        refused["use_sliding_window"] = (None, True)
    return refused


def read_window(config: Mapping[str, Any], windows: Windows) -> int | None:
    """How many positions a layer with a window sees, its own included; None where the model has no such layers."""
    if windows is Windows.NONE or (windows is Windows.LAST and not config.get("use_sliding_window")):
        return None
    window = config.get("sliding_window", 4096)
    if window is None and windows is not Windows.MOST:
        return None
    if window is None or int(window) < 1:
        raise _missing("sliding_window", window)
    return int(window)


def read_kinds(config: Mapping[str, Any], windows: Windows, window: int | None) -> tuple[str, ...]:
    """For each layer, FULL or SLIDING."""
    layers = range(int(config["num_hidden_layers"]))
    own = tuple(SLIDING if window and _is_sliding(config, windows, layer) else FULL for layer in layers)
    given = tuple(config.get("layer_types") or own)
    unknown = set(given) - ({FULL, SLIDING} if window else {FULL})
    is_fixed = windows in (Windows.NONE, Windows.ALL)  # transformers does not ask layer_types there
    if unknown or len(given) != len(own) or (is_fixed and given != own):
        raise _missing("layer_types", list(given))
    return given


def _is_sliding(config: Mapping[str, Any], windows: Windows, layer: int) -> bool:
    """Where layer_types says nothing."""
    if windows is Windows.LAST:
        return layer >= int(config.get("max_window_layers", 28))
    if windows is Windows.MOST:
        return (layer + 1) % int(config.get("sliding_window_pattern", 6)) != 0
    return windows is Windows.ALL


def _missing(name: str, value: object) -> BadConfiguration:
    return BadConfiguration(f"config.json sets {name} to {value!r}, which the torch engine does not have.")

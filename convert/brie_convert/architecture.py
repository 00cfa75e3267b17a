"""What config.json says of a model's shape, and whether llama.cpp computes exactly that. It knows no tensors.

llama.cpp loads many files it then runs wrongly, without a word (a sliding window on the llama architecture: 29 % of
next tokens right). So everything it would ignore is refused here, by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from brie_core.errors import InvalidRequest

_ROPE_SCALINGS = {"llama": ("default", "llama3"), "qwen2": ("default",), "qwen3": ("default",)}
_WINDOW_IS_OPT_IN = ("qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of one decoder."""

    family: str
    """model_type in config.json; llama.cpp calls these three families by the same names."""
    layers: int
    context_length: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope_theta: float
    rope_factors: tuple[float, ...]
    """What each rotary frequency is divided by, with Llama 3's scaling; empty without."""
    tied: bool
    """Whether the embedding is the output matrix too."""


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The shape of the model; raises InvalidRequest for what the file could not say or llama.cpp would not do."""
    family = config.get("model_type")
    if family not in _ROPE_SCALINGS:
        _refuse(f"the family {family!r} (only {', '.join(_ROPE_SCALINGS)} are exported)")
    _check_graph(config)
    try:
        return _numbers(family, config)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"config.json lacks a number that the file needs, or it is none: {error}.",
            param="model",
            code="unsupported_architecture",
        ) from error


def _numbers(family: str, config: Mapping[str, Any]) -> Architecture:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    rope = _rope(config)
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    return Architecture(
        family=family,
        layers=int(config["num_hidden_layers"]),
        context_length=int(config["max_position_embeddings"]),
        hidden=hidden,
        feed_forward=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_factors=_llama3_factors(rope, theta, head_dim) if _rope_type(rope) == "llama3" else (),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _check_graph(config: Mapping[str, Any]) -> None:
    family = config["model_type"]
    rope = _rope(config)
    if config.get("quantization_config"):
        _refuse("a checkpoint that is quantized already: take the model's full-precision weights")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        _refuse(f"the activation {activation!r}")
    if _window_in_use(config):
        _refuse(f"a sliding window of {config.get('sliding_window')} tokens")
    if _rope_type(rope) not in _ROPE_SCALINGS[family]:
        _refuse(f"the rope scaling {_rope_type(rope)!r} on the family {family!r}")
    for place in (config, rope):
        if place.get("partial_rotary_factor") not in (None, 1, 1.0):
            _refuse("rotary embedding on a part of each head (partial_rotary_factor)")


def _window_in_use(config: Mapping[str, Any]) -> bool:
    if "sliding_attention" in (config.get("layer_types") or ()):
        return True
    opted_in = config.get("use_sliding_window", config["model_type"] not in _WINDOW_IS_OPT_IN)
    window = config.get("sliding_window")
    first = config.get("max_window_layers", 0) if config["model_type"] in _WINDOW_IS_OPT_IN else 0
    reaches = window is not None and window < config["max_position_embeddings"]
    return bool(opted_in and reaches and first < config["num_hidden_layers"])


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 writes `rope_parameters`; before that it was `rope_scaling`, with theta beside it."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_type(rope: Mapping[str, Any]) -> str:
    if any(isinstance(value, Mapping) for value in rope.values()):
        return "one per layer type"
    return str(rope.get("rope_type", rope.get("type", "default")))


def _llama3_factors(rope: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """High frequencies stay, low ones slow down by `factor`, and those between are blended."""
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(rope["original_max_position_embeddings"])
    turns = (context * theta ** (-i / head_dim) / (2 * math.pi) for i in range(0, head_dim, 2))
    blends = (min(max((turn - low) / (high - low), 0.0), 1.0) for turn in turns)
    return tuple(1 / ((1 - blend) / factor + blend) for blend in blends)


def _refuse(what: str) -> NoReturn:
    raise InvalidRequest(
        f"This model cannot be exported to GGUF: it has {what}, which llama.cpp would not compute as the model was "
        "trained. Serve it from its folder instead.",
        param="model",
        code="unsupported_architecture",
    )

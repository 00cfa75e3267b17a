"""What config.json says of a model's shape, and whether llama.cpp computes exactly that. It knows no tensors.

llama.cpp loads many files it then runs wrongly, without a word (a sliding window on the llama architecture: 29 % of
next tokens right). So everything it would ignore is refused here, by name, or the context is cut to where it is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brie_convert.rope import Rope, read_rope, refuse, rope_settings
from brie_core.errors import InvalidRequest

_SLIDING, _FULL = "sliding_attention", "full_attention"
_WINDOW_IS_OPT_IN = ("qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class _Family:
    """What is true of all models of one model_type."""

    gguf: str
    """llama.cpp's name for the graph."""
    scalings: tuple[str, ...]
    """The rope scalings that llama.cpp computes on it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes a number for that config.json leaves out, where that is not the rule of all."""
    activation: tuple[str, str] = ("hidden_act", "silu")
    norm_offset: float = 0.0
    untied: bool = True
    """Whether the graph has an output matrix that is not the embedding."""
    big_layers: int | None = None
    """With this many layers llama.cpp divides scores by the root of hidden / heads, else by that of the head's size."""

    @property
    def gemma(self) -> bool:
        return self.norm_offset != 0.0


_GEMMA = {
    "head_dim": 256,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GELU = ("hidden_activation", "gelu_pytorch_tanh")
_FAMILIES = {
    "llama": _Family("llama", ("llama3", "linear", "yarn")),
    "mistral": _Family(
        "llama", ("llama3", "linear", "yarn"), defaults={"sliding_window": 4096, "num_key_value_heads": 8}
    ),
    "qwen2": _Family("qwen2", ("linear", "yarn")),
    "qwen3": _Family("qwen3", ("linear", "yarn")),
    "gemma2": _Family(
        "gemma2",
        (),
        defaults={
            **_GEMMA,
            "max_position_embeddings": 8192,
            "sliding_window_pattern": 2,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        activation=_GELU,
        norm_offset=1.0,
        untied=False,
        big_layers=46,
    ),
    "gemma3_text": _Family(
        "gemma3",
        ("linear",),
        defaults={**_GEMMA, "max_position_embeddings": 131_072, "sliding_window_pattern": 6},
        activation=_GELU,
        norm_offset=1.0,
        big_layers=62,
    ),
}

Key = str | int | float | list[bool]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of one decoder."""

    family: str
    """llama.cpp's name of the graph: a mistral is its llama, a gemma3_text its gemma3."""
    layers: int
    context_length: int
    """Up to where llama.cpp computes what the model does; `limits` tells if the model itself goes further."""
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
    norm_offset: float = 0.0
    """Added to each norm's weight, which Gemma stores as its distance from one."""
    keys: Mapping[str, Key] = field(default_factory=dict)
    """What only some headers hold: rope scaling, windows, soft caps; without the architecture before the name."""
    limits: tuple[str, ...] = ()
    """What the file cannot do and the model can, in sentences."""


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The shape of the model; raises InvalidRequest for what the file could not say or llama.cpp would not do."""
    family = _FAMILIES.get(str(config.get("model_type")))
    if family is None:
        refuse(f"the family {config.get('model_type')!r} (only {', '.join(_FAMILIES)} are exported)")
    config = {**family.defaults, **config}
    try:
        _check_graph(family, config)
        return _numbers(family, config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidRequest(
            f"config.json lacks a number that the file needs, or it is none: {error}.",
            param="model",
            code="unsupported_architecture",
        ) from error


def _numbers(family: _Family, config: Mapping[str, Any]) -> Architecture:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    rope, more = _gemma_rope(family, config, head_dim) if family.gemma else _plain_rope(family, config, head_dim)
    window = None if family.gemma else _ignored_window(config)
    context = int(config["max_position_embeddings"])
    return Architecture(
        family=family.gguf,
        layers=int(config["num_hidden_layers"]),
        context_length=min(context, window or context),
        hidden=hidden,
        feed_forward=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=rope.theta,
        rope_factors=rope.factors,
        tied=bool(config.get("tie_word_embeddings", False)),
        norm_offset=family.norm_offset,
        keys={**rope.keys, **more},
        limits=() if window is None else (_shortened(context, window),),
    )


def _shortened(context: int, window: int) -> str:
    return (
        f"llama.cpp does not compute this model's sliding window of {window} tokens, so the file's context ends there "
        f"(the model's own is {context})."
    )


def _check_graph(family: _Family, config: Mapping[str, Any]) -> None:
    if config.get("quantization_config"):
        refuse("a checkpoint that is quantized already: take the model's full-precision weights")
    key, expected = family.activation
    if (activation := config.get(key, expected)) != expected:
        refuse(f"the activation {activation!r}")
    if config.get("partial_rotary_factor") not in (None, 1, 1.0):
        refuse("rotary embedding on a part of each head (partial_rotary_factor)")
    if config.get("use_bidirectional_attention"):
        refuse("attention in both directions (use_bidirectional_attention)")
    if not family.untied and not config.get("tie_word_embeddings"):
        refuse("an output matrix that is not the embedding")
    if family.gemma:
        _check_gemma(family, config)
    else:
        _check_caps(config, {"attn_logit_softcapping": False, "final_logit_softcapping": False})


def _check_gemma(family: _Family, config: Mapping[str, Any]) -> None:
    caps = {"attn_logit_softcapping": family.gguf == "gemma2"}
    _check_caps(config, caps | ({"final_logit_softcapping": True} if family.gguf == "gemma2" else {}))
    scalar, divisor = config["query_pre_attn_scalar"], int(config["head_dim"])
    if config["num_hidden_layers"] == family.big_layers:
        divisor = int(config["hidden_size"]) // int(config["num_attention_heads"])
    if scalar != divisor:
        refuse(f"query_pre_attn_scalar {scalar}, where llama.cpp always takes {divisor}")


def _check_caps(config: Mapping[str, Any], needed: Mapping[str, bool]) -> None:
    """Some graphs always cap, and the others never."""
    for name, is_needed in needed.items():
        if bool(config.get(name)) != is_needed:
            refuse(f"{name} {config.get(name)}")


def _plain_rope(family: _Family, config: Mapping[str, Any], head_dim: int) -> tuple[Rope, dict[str, Key]]:
    return read_rope(config, rope_settings(config), head_dim, family.scalings), {}


def _gemma_rope(family: _Family, config: Mapping[str, Any], head_dim: int) -> tuple[Rope, dict[str, Key]]:
    """Layers with a window have a theta of their own in Gemma 3, and are listed one by one."""
    keys: dict[str, Key] = {name: float(config[name]) for name in _CAPS if config.get(name)}
    sliding = _sliding_layers(config)
    if any(sliding) or family.gguf == "gemma2":  # llama.cpp's gemma2 has windows even where the file names none
        window = config.get("sliding_window") or config["max_position_embeddings"]
        keys |= {"attention.sliding_window": int(window), "attention.sliding_window_pattern": sliding}
    settings = rope_settings(config)
    if family.gguf == "gemma2":
        return read_rope(config, settings, head_dim, family.scalings), keys
    whole = settings.get(_FULL, {} if _SLIDING in settings else settings)
    local = settings.get(_SLIDING, {})
    keys["rope.freq_base_swa"] = read_rope(
        {"rope_theta": config.get("rope_local_base_freq")}, local, head_dim, ()
    ).theta
    return read_rope({"rope_theta": 1_000_000.0, **config}, whole, head_dim, family.scalings), keys


_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def _sliding_layers(config: Mapping[str, Any]) -> list[bool]:
    layers, pattern = int(config["num_hidden_layers"]), int(config["sliding_window_pattern"])
    kinds: Sequence[str] = config.get("layer_types") or [
        _SLIDING if (layer + 1) % pattern else _FULL for layer in range(layers)
    ]
    if len(kinds) != layers or not {*kinds} <= {_SLIDING, _FULL}:
        refuse(f"the layer_types {sorted({*kinds})} for {layers} layers")
    return [kind == _SLIDING for kind in kinds]


def _ignored_window(config: Mapping[str, Any]) -> int | None:
    """The sliding window that the model has and llama.cpp would pass over; None where it is never reached."""
    layers = config.get("layer_types") or ()
    opted_in = config.get("use_sliding_window", config["model_type"] not in _WINDOW_IS_OPT_IN)
    window = config.get("sliding_window")
    first = config.get("max_window_layers", 0) if config["model_type"] in _WINDOW_IS_OPT_IN else 0
    reaches = window is not None and window < config["max_position_embeddings"]
    if _SLIDING not in layers and not (opted_in and reaches and first < config["num_hidden_layers"]):
        return None
    if config["model_type"] == "llama" or not isinstance(window, int) or window < 1:
        refuse(f"a sliding window of {window} tokens")
    return window if reaches else None

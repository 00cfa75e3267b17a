"""How a model turns its positions, and which header keys make llama.cpp turn them alike. It knows no other settings.

llama.cpp reads YaRN's ramp and its factor of attention for few architectures and passes over them for all others, so
only what every architecture reads is written, and the rest is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from brie_core.errors import InvalidRequest

_RAMP = {"beta_fast": 32.0, "beta_slow": 1.0, "extrapolation_factor": 1.0, "truncate": True}
"""What llama.cpp always takes, in config.json's words."""


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotary embedding of the layers that see the whole context."""

    theta: float
    factors: tuple[float, ...] = ()
    """What each rotary frequency is divided by, with Llama 3's scaling; empty without."""
    keys: Mapping[str, str | int | float] = field(default_factory=dict)
    """Of the header, without the architecture before them; empty without a scaling that llama.cpp does itself."""


def read_rope(config: Mapping[str, Any], settings: Mapping[str, Any], head_dim: int, scalings: tuple[str, ...]) -> Rope:
    """The rotary embedding that `settings` of `config` describe; raises InvalidRequest for a kind not in `scalings`."""
    kind = rope_type(settings)
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if kind not in ("default", *scalings):
        refuse(f"the rope scaling {kind!r} on the family {config.get('model_type')!r}")
    if settings.get("partial_rotary_factor") not in (None, 1, 1.0):
        refuse("rotary embedding on a part of each head (partial_rotary_factor)")
    if kind == "llama3":
        return Rope(theta, _llama3_factors(settings, theta, head_dim))
    return Rope(theta, keys={"linear": _linear, "yarn": _yarn}.get(kind, _none)(config, settings))


def rope_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers 5 writes `rope_parameters`; before that it was `rope_scaling`, with theta beside it."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def rope_type(settings: Mapping[str, Any]) -> str:
    """The name of the scaling."""
    if any(isinstance(value, Mapping) for value in settings.values()):
        return "one per layer type"
    return str(settings.get("rope_type", settings.get("type", "default")))


def _none(_config: Mapping[str, Any], _settings: Mapping[str, Any]) -> dict[str, str | int | float]:
    return {}


def _linear(_config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str | int | float]:
    return {"rope.scaling.type": "linear", "rope.scaling.factor": float(settings["factor"])}


def _yarn(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str | int | float]:
    for name, value in _RAMP.items():
        if settings.get(name) not in (None, value):
            refuse(f"yarn with {name} {settings[name]}, where llama.cpp always takes {value}")
    context = int(config["max_position_embeddings"])
    original = int(settings.get("original_max_position_embeddings") or context)
    factor = float(settings.get("factor") or context / original)
    keys: dict[str, str | int | float] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
    }
    wanted, own = _attention_factor(settings, factor), _magnitude(factor, 1.0)
    return keys if wanted == own else keys | {"rope.scaling.attn_factor": wanted / own}


def _attention_factor(settings: Mapping[str, Any], factor: float) -> float:
    given = settings.get("attention_factor")
    if given is not None:
        return float(given)
    scales = settings.get("mscale"), settings.get("mscale_all_dim")
    if all(scales):
        return _magnitude(factor, float(scales[0] or 0)) / _magnitude(factor, float(scales[1] or 0))
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, scale: float) -> float:
    """What queries and keys together are made larger by, after the YaRN paper."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _llama3_factors(settings: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """High frequencies stay, low ones slow down by `factor`, and those between are blended."""
    factor, low, high = (float(settings[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    context = float(settings["original_max_position_embeddings"])
    turns = (context * theta ** (-i / head_dim) / (2 * math.pi) for i in range(0, head_dim, 2))
    blends = (min(max((turn - low) / (high - low), 0.0), 1.0) for turn in turns)
    return tuple(1 / ((1 - blend) / factor + blend) for blend in blends)


def refuse(what: str) -> NoReturn:
    """Raise InvalidRequest for something of config.json that llama.cpp would pass over."""
    raise InvalidRequest(
        f"This model cannot be exported to GGUF: it has {what}, which llama.cpp would not compute as the model was "
        "trained. Serve it from its folder instead.",
        param="model",
        code="unsupported_architecture",
    )

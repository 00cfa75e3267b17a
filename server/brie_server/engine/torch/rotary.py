"""The rotary settings of a config.json, for each kind of layer. It knows no tensors, and refuses what Brie lacks.

transformers 5 writes them as `rope_parameters`; before that they were `rope_scaling` with `rope_theta` beside it. Where
both stand in a file, `rope_scaling` counts, as it does there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brie_core.errors import BadConfiguration

FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers: one sees the whole context, the other a window of it."""

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_KNOWN = {"rope_theta", "rope_type", "type", *_LLAMA3}


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All frequencies slowed alike."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's stretching of the slow rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class Rope:
    """How one kind of layer turns its queries and keys."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | None


def read_rope(config: Mapping[str, Any]) -> Rope:
    """For a family whose layers all turn alike."""
    settings = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return _rope(settings, config.get("rope_theta", 10_000.0))


def read_rope_by_kind(config: Mapping[str, Any]) -> Mapping[str, Rope]:
    """For gemma3, whose windows turn faster than its other layers; only the latter may be scaled the old way."""
    settings = config.get("rope_parameters") or {}
    if odd := sorted(settings.keys() - {FULL, SLIDING}):
        raise BadConfiguration(f"config.json has {odd[0]} in rope_parameters, which the torch engine does not have.")
    full, sliding = settings.get(FULL) or {}, settings.get(SLIDING) or {}
    return {
        FULL: _rope({**full, **(config.get("rope_scaling") or {})}, config.get("rope_theta", 1_000_000.0)),
        SLIDING: _rope(sliding, config.get("rope_local_base_freq", 10_000.0)),
    }


def _rope(settings: Mapping[str, Any], theta: float) -> Rope:
    if not isinstance(settings, Mapping) or any(isinstance(value, Mapping) for value in settings.values()):
        raise BadConfiguration(f"config.json has rotary settings that the torch engine does not have: {settings!r}.")
    unknown = settings.keys() - _KNOWN
    if odd := sorted(name for name in unknown if (name, settings[name]) != ("partial_rotary_factor", 1.0)):
        raise BadConfiguration(f"config.json has the rotary setting {odd[0]}, which the torch engine does not have.")
    return Rope(float(settings.get("rope_theta", theta)), _scaling(settings))


def _scaling(settings: Mapping[str, Any]) -> LinearScaling | Llama3Scaling | None:
    kind = settings.get("rope_type") or settings.get("type", "default")
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(float(settings["factor"]))
    if kind == "llama3":
        factor, low, high, original = (settings[name] for name in _LLAMA3)
        return Llama3Scaling(float(factor), float(low), float(high), int(original))
    raise BadConfiguration(
        f"config.json asks for rotary scaling {kind!r}; the torch engine has default, linear and llama3."
    )

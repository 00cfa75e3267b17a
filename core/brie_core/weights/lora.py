"""Reads a PEFT LoRA folder strictly against its base. It knows config and tensors; it runs and stores nothing.

Half of all reported LoRA serving bugs are adapters that were silently applied in part or not at all. Here every
tensor must find its module, every targeted module its tensors, and anything Brie cannot apply is refused by name.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from brie_core.errors import InvalidAdapter
from brie_core.weights.safetensors import BrokenTensorFile, TensorInfo, read_tensors

MAX_RANK = 512
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
DECISIVE = (
    "peft_type",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
)
"""The fields of a config that decide what an adapter answers; its version's digest covers them."""
_APPLIED = frozenset({*DECISIVE, "bias", "init_lora_weights"})
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "inference_mode",
        "lora_dropout",
        "loftq_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
WITHOUT_EFFECT = "Every lora_B is zero: this adapter was never trained and would answer exactly as its base."
_INITS_THAT_KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")


class Adaptable(Protocol):
    """A base model as far as adapters are concerned."""

    @property
    def id(self) -> str: ...
    @property
    def digest(self) -> str:
        """Two bases with one digest are the same base."""
        ...

    @property
    def linear_modules(self) -> Mapping[str, tuple[int, int]]:
        """The layers an adapter may change, each with its (out, in)."""
        ...


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted linear layer: y += scale * B @ (A @ x)."""

    name: str
    """As in the base checkpoint, without `.weight`."""
    rank: int
    scale: float
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA, patterns applied."""
    a: TensorInfo
    """Shape (rank, in)."""
    b: TensorInfo
    """Shape (out, rank)."""


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """A sound adapter: config as given, modules in checkpoint order of their names."""

    config: Mapping[str, Any]
    modules: tuple[LoraModule, ...]

    @property
    def file(self) -> Path:
        """Where all its tensors lie."""
        return self.modules[0].a.file

    @property
    def num_bytes(self) -> int:
        """Size of all tensors as stored."""
        return sum(module.a.size + module.b.size for module in self.modules)


def read_adapter(folder: Path, base_modules: Mapping[str, tuple[int, int]]) -> LoraAdapter:
    """Read and check the adapter in `folder`; `base_modules` maps each adaptable module to its (out, in).

    Raises InvalidAdapter with a stable code. Values are not read; `check_values` does that.
    """
    config = _read_config(folder)
    tensors = _read_weights(folder)
    pairs = _pair(tensors, base_modules)
    _check_complete(config, pairs, base_modules)
    modules = tuple(_module(config, name, pairs[name], base_modules[name]) for name in sorted(pairs))
    return LoraAdapter(config, modules)


def check_values(adapter: LoraAdapter) -> None:
    """Read every tensor once: all values finite, and at least one B not zero, or InvalidAdapter."""
    has_effect = False
    with adapter.file.open("rb", buffering=0) as file:
        for module in adapter.modules:
            a, b = module.a.read_float32(file), module.b.read_float32(file)
            for info, values in ((module.a, a), (module.b, b)):
                if not np.isfinite(values).all():
                    raise InvalidAdapter(f"{info.name} holds NaN or infinity.", code="adapter_not_finite")
            has_effect = has_effect or bool(b.any())
    if not has_effect:
        raise InvalidAdapter(WITHOUT_EFFECT, code="adapter_no_effect")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
    except FileNotFoundError as error:
        raise InvalidAdapter(
            f"{folder.name} has no adapter_config.json: give the folder that PEFT's save_pretrained wrote.",
            code="adapter_config_missing",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidAdapter(f"adapter_config.json is unreadable: {error}", code="adapter_config_invalid") from error
    if not isinstance(config, dict):
        raise InvalidAdapter("adapter_config.json is not an object.", code="adapter_config_invalid")
    _check_config(config)
    return config


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InvalidAdapter(
            f"peft_type is {config.get('peft_type')!r}; only LORA is served.", code="adapter_unsupported"
        )
    refused = [name for name, value in config.items() if value and name not in _APPLIED | _WITHOUT_EFFECT]
    if config.get("bias", "none") != "none":
        refused.append("bias")
    if config.get("init_lora_weights") not in _INITS_THAT_KEEP_THE_BASE:
        refused.append(f"init_lora_weights={config['init_lora_weights']}")  # it changed the base while training
    if refused:
        raise InvalidAdapter(
            f"The adapter uses {', '.join(refused)}, which Brie cannot apply exactly: "
            "merge it into its base, or train it without.",
            code="adapter_unsupported",
        )
    for name in ("r", "lora_alpha"):
        _positive(config.get(name), name)
    for name in ("rank_pattern", "alpha_pattern"):
        for value in _pattern(config, name).values():
            _positive(value, name)


def _positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidAdapter(f"{name} is {value!r}, not a positive number.", code="adapter_config_invalid")


def _pattern(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    pattern = config.get(name) or {}
    if not isinstance(pattern, Mapping):
        raise InvalidAdapter(f"{name} is not an object.", code="adapter_config_invalid")
    return pattern


def _read_weights(folder: Path) -> dict[str, TensorInfo]:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        if any(folder.glob("adapter_model.*")):
            raise InvalidAdapter(
                "The adapter's weights are a pickle file, which can run code when opened: save them as safetensors.",
                code="adapter_pickle",
            )
        raise InvalidAdapter(f"{folder.name} has no adapter_model.safetensors.", code="adapter_weights_missing")
    try:
        return read_tensors(file)
    except BrokenTensorFile as error:
        raise InvalidAdapter(str(error), code="adapter_weights_corrupt") from error


_Pair = dict[str, TensorInfo]


def _pair(tensors: Mapping[str, TensorInfo], base_modules: Mapping[str, tuple[int, int]]) -> dict[str, _Pair]:
    pairs: dict[str, _Pair] = {}
    unexpected = []
    for name, info in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match["module"] not in base_modules:
            unexpected.append(name)
        else:
            pairs.setdefault(match["module"], {})[match["side"]] = info
    if not pairs:
        raise InvalidAdapter(
            "No tensor of the adapter belongs to a module of this base model: it was trained on another architecture.",
            code="adapter_no_modules_matched",
        )
    if unexpected:
        raise InvalidAdapter(
            f"The base has no place for {len(unexpected)} of the adapter's tensors, such as {unexpected[0]}.",
            code="adapter_unexpected_keys",
        )
    return pairs


def _check_complete(
    config: Mapping[str, Any], pairs: Mapping[str, _Pair], base_modules: Mapping[str, tuple[int, int]]
) -> None:
    missing = [f"{name}.lora_{side}" for name, pair in pairs.items() for side in "AB" if side not in pair]
    missing += sorted(_targeted(config, base_modules) - pairs.keys())
    if missing:
        raise InvalidAdapter(
            f"The adapter lacks {len(missing)} tensors that its config promises, such as those of {missing[0]}.",
            code="adapter_missing_keys",
        )


def _targeted(config: Mapping[str, Any], base_modules: Mapping[str, tuple[int, int]]) -> set[str]:
    """The modules that PEFT would have adapted under this config."""
    chosen = {name for name in base_modules if _matches(config.get("target_modules"), name)}
    if excluded := config.get("exclude_modules"):
        chosen = {name for name in chosen if not _matches(excluded, name)}
    if (layers := config.get("layers_to_transform")) is not None:
        wanted = [layers] if isinstance(layers, int) else layers
        if not isinstance(wanted, list) or not all(isinstance(layer, int) for layer in wanted):
            raise InvalidAdapter("layers_to_transform is no list of layers.", code="adapter_config_invalid")
        chosen = {name for name in chosen if (found := _LAYER.search(name)) and int(found[1]) in wanted}
    return chosen


def _matches(targets: Any, name: str) -> bool:
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return _full_match(targets, name)
    return isinstance(targets, list) and any(name == target or name.endswith(f".{target}") for target in targets)


def _full_match(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise InvalidAdapter(f"{pattern!r} is no regular expression: {error}", code="adapter_config_invalid") from error


def _module(config: Mapping[str, Any], name: str, pair: _Pair, shape: tuple[int, int]) -> LoraModule:
    rank = int(_by_pattern(_pattern(config, "rank_pattern"), name, config["r"]))
    alpha = float(_by_pattern(_pattern(config, "alpha_pattern"), name, config["lora_alpha"]))
    if rank > MAX_RANK:
        raise InvalidAdapter(f"{name} has rank {rank}; at most {MAX_RANK} is served.", code="adapter_rank_too_large")
    for side, expected in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
        if pair[side].shape != expected:
            raise InvalidAdapter(
                f"{pair[side].name} has shape {pair[side].shape} where base and config ask for {expected}.",
                code="adapter_shape_mismatch",
            )
        if pair[side].dtype not in {"F32", "F16", "BF16"}:
            raise InvalidAdapter(f"{pair[side].name} is {pair[side].dtype}.", code="adapter_unsupported")
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraModule(name, rank, scale, pair["A"], pair["B"])


def _by_pattern(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """PEFT's rule: a key matches the end of a module's name, at a dot; the first match wins."""
    for key, value in pattern.items():
        if _full_match(rf"(.*\.)?({key})", name):
            return value
    return default

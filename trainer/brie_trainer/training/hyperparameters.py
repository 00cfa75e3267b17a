"""What "auto" means. Pure arithmetic on counts and sizes; it trains nothing.

Sources: rank, targets and the learning rate's shape follow "LoRA Without Regret" and tinker-cookbook's published fit
(LR = 5e-5 * 10 * (2000 / hidden)^P), which also gives 1e-5 for preferences; a run aims at 100 steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_EXPONENTS = {"qwen2": 0.0775, "qwen3": 0.0775}
_LLAMA_EXPONENT = 0.781
_MAX_LEARNING_RATE = 1e-3
_PREFERENCE_RATE = 1e-5
_STEPS_AIMED_AT = 100
_EVALUATE_EVERY = 100
_BETA = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """Everything a run is told, nothing left open."""

    method: str
    n_epochs: int
    batch_size: int
    """Examples per optimizer step."""
    learning_rate_multiplier: float
    learning_rate: float
    """The peak: auto rate times multiplier, or as given."""
    beta: float | None
    """How dear it is to leave the reference; None where the method has none."""
    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...] | None
    """None: every linear layer but the head."""
    max_length: int
    """Tokens per example; longer ones are cut."""
    eval_steps: int
    save_steps: int


def choose(spec: Mapping[str, Any], *, num_examples: int, longest: int, config: Mapping[str, Any]) -> Hyperparameters:
    """Fill in what the job's `hyperparameters` and `brie` leave open; `config` is the base model's config.json."""
    given, brie, method = spec["hyperparameters"], spec["brie"], spec["method"]
    batch_size = min(given["batch_size"] or auto_batch_size(num_examples), num_examples)
    multiplier = given["learning_rate_multiplier"] or 1.0
    rank = brie["rank"] or 16
    rate = auto_learning_rate(str(config["model_type"]), int(config["hidden_size"]), method)
    targets = brie["target_modules"]
    return Hyperparameters(
        method=method,
        n_epochs=given["n_epochs"] or auto_epochs(num_examples, batch_size),
        batch_size=batch_size,
        learning_rate_multiplier=multiplier,
        learning_rate=brie["learning_rate"] or rate * multiplier,
        beta=None if method == "supervised" else given["beta"] or _BETA,
        rank=rank,
        alpha=brie["alpha"] or 2 * rank,
        dropout=brie["dropout"] or 0.0,
        target_modules=tuple(targets) if targets else None,
        max_length=min(brie["max_length"] or longest, int(config["max_position_embeddings"])),
        eval_steps=brie["eval_steps"] or _EVALUATE_EVERY,
        save_steps=brie["save_steps"] or _EVALUATE_EVERY,
    )


def going_on(chosen: Hyperparameters, adapter: Mapping[str, Any]) -> Hyperparameters:
    """The same with the shape of the adapter that is gone on from; `adapter` is its adapter_config.json."""
    targets = adapter["target_modules"]
    names = [targets] if isinstance(targets, str) else targets
    return replace(
        chosen,
        rank=adapter["r"],
        alpha=adapter["lora_alpha"],
        dropout=0.0,
        target_modules=tuple(sorted({name.rpartition(".")[2] for name in names})),
    )


def auto_learning_rate(family: str, hidden_size: int, method: str = "supervised") -> float:
    """The peak rate for LoRA on all linear layers."""
    if method != "supervised":
        return _PREFERENCE_RATE
    exponent = _EXPONENTS.get(family, _LLAMA_EXPONENT)
    return float(min(5e-4 * (2000 / hidden_size) ** exponent, _MAX_LEARNING_RATE))


def auto_batch_size(num_examples: int) -> int:
    """Small for few rows: more steps are worth more than smoother ones."""
    if num_examples < 200:
        return 2
    return 4 if num_examples < 1000 else 8


def auto_epochs(num_examples: int, batch_size: int) -> int:
    """Enough passes for some 100 steps: at most 10 over fewer than a hundred rows, at most 3 over a thousand."""
    wanted = math.ceil(_STEPS_AIMED_AT * batch_size / num_examples)
    return max(1, min(wanted, 3 if num_examples >= 1000 else 5 if num_examples >= 100 else 10))

"""What "auto" means. Pure arithmetic on counts and sizes; it trains nothing.

Sources: rank, targets and the learning rate's shape follow "LoRA Without Regret" and tinker-cookbook's published fit
(LR = 5e-5 * 10 * (2000 / hidden)^P); the steps aimed at are the 100 that short runs were found to need.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXPONENTS = {"qwen2": 0.0775, "qwen3": 0.0775}
_LLAMA_EXPONENT = 0.781
_MAX_LEARNING_RATE = 1e-3
_STEPS_AIMED_AT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """Everything a supervised run is told."""

    n_epochs: int
    batch_size: int
    """Examples per optimizer step."""
    learning_rate_multiplier: float
    learning_rate: float
    """The rate used: auto rate times multiplier, or as given."""
    rank: int
    alpha: int
    max_length: int
    """Tokens per example; longer ones are cut."""


def choose(spec: Mapping[str, Any], *, num_examples: int, longest: int, config: Mapping[str, Any]) -> Hyperparameters:
    """Fill in what the job's `hyperparameters` and `brie` leave open; `config` is the base model's config.json."""
    given, brie = spec["hyperparameters"], spec["brie"]
    batch_size = given["batch_size"] or auto_batch_size(num_examples)
    multiplier = given["learning_rate_multiplier"] or 1.0
    rank = brie["rank"] or 16
    rate = auto_learning_rate(str(config["model_type"]), int(config["hidden_size"])) * multiplier
    return Hyperparameters(
        n_epochs=given["n_epochs"] or auto_epochs(num_examples, batch_size),
        batch_size=min(batch_size, num_examples),
        learning_rate_multiplier=multiplier,
        learning_rate=brie["learning_rate"] or rate,
        rank=rank,
        alpha=brie["alpha"] or 2 * rank,
        max_length=min(brie["max_length"] or longest, int(config["max_position_embeddings"])),
    )


def auto_learning_rate(family: str, hidden_size: int) -> float:
    """The peak rate for LoRA on all linear layers."""
    exponent = _EXPONENTS.get(family, _LLAMA_EXPONENT)
    return float(min(5e-4 * (2000 / hidden_size) ** exponent, _MAX_LEARNING_RATE))


def auto_batch_size(num_examples: int) -> int:
    """Small for few rows: more steps are worth more than smoother ones."""
    if num_examples < 200:
        return 2
    return 4 if num_examples < 1000 else 8


def auto_epochs(num_examples: int, batch_size: int) -> int:
    """Enough passes for some 40 steps: at most 10 over a handful of rows, at most 3 over a thousand."""
    wanted = math.ceil(_STEPS_AIMED_AT * batch_size / num_examples)
    return max(1, min(wanted, 3 if num_examples >= 1000 else 10))

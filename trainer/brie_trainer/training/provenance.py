"""What brie.json says of all that a run publishes: where it comes from, and what made it. Nobody types a number."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from brie_core import __version__
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import file_digest
from brie_trainer.data.examples import TokenCounts
from brie_trainer.training.hyperparameters import Hyperparameters


def facts_of(
    job: Mapping[str, Any],
    chosen: Hyperparameters,
    counts: TokenCounts,
    tokenizer: Tokenizer,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """What is true of the whole run; `machine`: seed, device, dtype."""
    return {
        "job_id": job["job_id"],
        "training": {**asdict(chosen), **machine},
        "counts": asdict(counts),
        "tokenizer": {"digest": tokenizer.digest, "chat_template_digest": tokenizer.template_digest},
        "datasets": _datasets(job),
        "software": _software(),
    }


def _datasets(job: Mapping[str, Any]) -> dict[str, Any]:
    files = {param: Path(job[param]) for param in ("training_file", "validation_file") if job[param]}
    return {param: {"file_id": job["spec"][param], "sha256": file_digest(file)} for param, file in files.items()}


def _software() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "accelerate")
    return {"brie": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}

"""The state of a run in a folder: safetensors and JSON, so that any machine can go on from it. It knows no step's work.

checkpoint-40/
  adapter_model.safetensors, adapter_config.json    a PEFT folder, to be served as it is
  optimizer.safetensors                             both moments of every trained tensor
  reference.safetensors                             the reference's log-probabilities, where the method has any
  trainer_state.json                                written last: a folder without it is torn
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from brie_core.durable import publish_folder, write_file
from brie_trainer.training.model import LoraModel

STATE = "trainer_state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a run stands; it grows as the run goes on, and is all that the next attempt needs beside tensors."""

    step: int = 0
    """Whole optimizer steps."""
    token_cap: int
    """Tokens per micro-batch: kept, because another cut would add the same numbers in another order."""
    evaluation_tokens: int
    gradient_checkpointing: bool
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of every step and validation, in order."""
    best_step: int | None = None
    best_loss: float | None = None
    evaluations: int = 0
    stale_evaluations: int = 0
    """How many in a row did not improve on the best."""


def save(
    folder: Path, model: LoraModel, optimizer: torch.optim.AdamW, reference: Mapping[str, Tensor], progress: Progress
) -> None:
    """Write `folder` whole or not at all."""
    staged = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    model.save(staged)
    save_file(_moments(model, optimizer), staged / "optimizer.safetensors")
    if reference:
        save_file(dict(reference), staged / "reference.safetensors")
    sizes = {file.name: file.stat().st_size for file in staged.iterdir()}
    write_file(staged / STATE, json.dumps({"files": sizes, "progress": asdict(progress)}, indent=1).encode())
    shutil.rmtree(folder, ignore_errors=True)
    publish_folder(staged, folder)


def read_progress(folder: Path) -> Progress:
    """Of a whole checkpoint."""
    return Progress(**json.loads((folder / STATE).read_text())["progress"])


def restore(folder: Path, model: LoraModel, optimizer: torch.optim.AdamW, step: int) -> dict[str, Tensor]:
    """Put the tensors of `folder` into model and optimizer; returns the reference's log-probabilities."""
    model.copy_from(folder)
    found = load_file(folder / "optimizer.safetensors", device=str(model.device))
    for name, parameter in model.parameters.items():
        state = {moment: found[f"{name}.{moment}"].clone() for moment in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **state}
    reference = folder / "reference.safetensors"
    return load_file(reference) if reference.is_file() else {}


def newest(attempts: Iterable[Path]) -> Path | None:
    """The furthest whole checkpoint of earlier attempts."""
    return max(_whole(attempts, "checkpoint-*"), key=step_of, default=None)


def at_step(attempts: Iterable[Path], step: int) -> Path | None:
    """A whole checkpoint of `step`, of whichever attempt."""
    return next(iter(_whole(attempts, f"checkpoint-{step}")), None)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def is_whole(folder: Path) -> bool:
    """Whether every file is there in its length: after a power cut a file can be shorter than it was written."""
    try:
        sizes = json.loads((folder / STATE).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _whole(attempts: Iterable[Path], pattern: str) -> list[Path]:
    found = [folder for attempt in attempts for folder in attempt.glob(f"checkpoints/{pattern}")]
    return [folder for folder in found if is_whole(folder)]


def _moments(model: LoraModel, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment].contiguous()
        for name, parameter in model.parameters.items()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }

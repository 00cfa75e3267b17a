"""Fine-tuning jobs as their child sees them: a folder with job.json, and its run. It knows no worker."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from brie_trainer.training.attempt import attempt

Event = dict[str, Any]

CHATS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": "So " * (i % 5) + f"{i}."}]}
    for i in range(12)
]

_AUTO: dict[str, dict[str, Any]] = {
    "hyperparameters": {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None, "beta": None},
    "brie": {
        **dict.fromkeys(("rank", "alpha", "dropout", "target_modules", "max_length", "learning_rate", "eval_steps")),
        **dict.fromkeys(("save_steps", "save_total_limit", "early_stopping", "quantization", "packing")),
        **dict.fromkeys(("from_checkpoint", "gradient_checkpointing", "num_processes")),
        "report_to": [],
        "dry_run": False,
    },
}


def spec_of(method: str = "supervised", *, seed: int = 1, **changes: Any) -> dict[str, Any]:
    """A job's spec: everything auto but `changes`, each put where it belongs."""
    brie = _AUTO["brie"] | {name: value for name, value in changes.items() if name in _AUTO["brie"]}
    given = _AUTO["hyperparameters"] | {k: v for k, v in changes.items() if k in _AUTO["hyperparameters"]}
    names = {"model": "tiny", "training_file": "file-t", "validation_file": None, "suffix": None, "metadata": None}
    return names | {"seed": seed, "method": method, "integrations": [], "hyperparameters": given, "brie": brie}


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def job_of(
    folder: Path,
    base: Path,
    spec: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = CHATS,
    *,
    validation: Sequence[Mapping[str, Any]] = (),
    earlier: Sequence[Path] = (),
) -> dict[str, Any]:
    """The contract of one attempt in `folder`, with its data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    training = write_rows(folder / "training.jsonl", rows)
    held_out = write_rows(folder / "validation.jsonl", validation) if validation else None
    job = {
        "job_id": "ftjob-1",
        "base": {"id": "tiny", "folder": str(base), "digest": "0" * 64},
        "spec": dict(spec),
        "device": "cpu",
        "dtype": "float32",
        "earlier": [str(attempt) for attempt in earlier],
        "from_adapter": None,
        "training_file": str(training),
        "validation_file": None if held_out is None else str(held_out),
    }
    (folder / "job.json").write_text(json.dumps(job))
    return job


def run(job: dict[str, Any], folder: Path, *, stop_after: int | None = None) -> tuple[list[Event], Event]:
    """The events of an attempt in `folder`, asked to stop after so many steps, and its last one."""
    events: list[Event] = []
    last = attempt(folder, job, events.append, lambda: stop_after is not None and len(steps(events)) >= stop_after)
    return events, last


def steps(events: Sequence[Event]) -> list[Event]:
    """The metrics of training steps."""
    return [event["data"] for event in events if event["type"] == "metrics" and "train_loss" in event["data"]]


def adapter(folder: Path, last: Event) -> Any:
    """The tensors that a run ended with."""
    return load_file(folder / "checkpoints" / f"checkpoint-{last['step']}" / "adapter_model.safetensors")


def bits(folder: Path, last: Event) -> dict[str, bytes]:
    """The same, to be compared bit for bit."""
    return {name: tensor.tobytes() for name, tensor in adapter(folder, last).items()}

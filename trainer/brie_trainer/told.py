"""What the words of a training process change in its job's row. Pure; it knows no adapter and no file."""

import time
from collections.abc import Mapping
from typing import Any

from brie_core.store.job_store import Change
from brie_core.store.jobs import JobStatus, NewEvent
from brie_trainer.kind import failure

_OPENAIS = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
_LOSSES = {"train_loss": "training loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}


def change_of(event: Mapping[str, Any]) -> Change:
    """Of every event that asks for nothing but rows; what is not known is an error, and ends the job."""
    match event["type"]:
        case "started":
            chosen = event["hyperparameters"]
            return Change(result={"hyperparameters": {name: chosen[name] for name in _OPENAIS}, "chosen": chosen})
        case "estimate":
            return Change(result={"estimate": event["estimate"]})
        case "metrics":
            return _metrics(event["data"])
        case _:
            return _words(event)


def _words(event: Mapping[str, Any]) -> Change:
    match event["type"]:
        case "message":
            return Change(events=[NewEvent(message=event["message"], level=event.get("level", "info"))])
        case "stopped":
            return Change(events=[NewEvent(message=f"Stopped behind step {event['step']}")])
        case "result":
            return Change(status=JobStatus.SUCCEEDED, events=[NewEvent(message="The dry run has ended")])
        case _:
            return failure(event)


def _metrics(data: Mapping[str, Any]) -> Change:
    told = ", ".join(f"{text}={data[name]:.4f}" for name, text in _LOSSES.items() if name in data)
    event = NewEvent(message=f"Step {data['step']}/{data['total_steps']}: {told}", type="metrics", data=data)
    finish = {"estimated_finish": int(time.time() + data["eta_seconds"])} if "eta_seconds" in data else None
    return Change(events=[event], result=finish)

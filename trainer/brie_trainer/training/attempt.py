"""One attempt at a job, from its contract to its last event: what is decided before the first step, then the loop.

    job.json -> rows -> hyperparameters -> plan -> model -> estimate -> loop -> result

It knows the job's spec and folders; it opens no database and starts no process.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from brie_core.errors import InsufficientStorage
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, read_json
from brie_trainer.training import checkpoint
from brie_trainer.training.checkpoint import Progress
from brie_trainer.training.device import choose_device, choose_dtype
from brie_trainer.training.device_memory import free_memory
from brie_trainer.training.estimate import Estimate, estimate
from brie_trainer.training.forecast import longest_of, measure, shape_of
from brie_trainer.training.hyperparameters import Hyperparameters, choose, going_on
from brie_trainer.training.job_rows import Item, Rows, read_rows
from brie_trainer.training.loop import EarlyStopping, Loop, Run, trained_tokens
from brie_trainer.training.memory_errors import give_back, within_memory
from brie_trainer.training.model import LoraModel, load
from brie_trainer.training.objective import Desirability, Objective, Preference, Supervised
from brie_trainer.training.plan import Plan, plan
from brie_trainer.training.processes import Processes
from brie_trainer.training.provenance import facts_of
from brie_trainer.training.reporting import Reporter
from brie_trainer.training.schedule import Schedule
from brie_trainer.training.trackers import Trackers

Event = dict[str, Any]
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """All that is settled before a model is loaded."""

    job: Mapping[str, Any]
    folder: Path
    rows: Rows
    chosen: Hyperparameters
    schedule: Schedule
    device: str
    dtype: str
    attempts: Sequence[Path]
    resume_from: Path | None
    plan: Plan
    free: int

    def progress(self) -> Progress:
        """Where the run stands: as its last checkpoint says, or at its beginning."""
        if self.resume_from is not None:
            return checkpoint.read_progress(self.resume_from)
        planned = self.plan
        return Progress(
            token_cap=planned.token_cap,
            evaluation_tokens=planned.evaluation_tokens,
            gradient_checkpointing=planned.gradient_checkpointing,
        )


def attempt(folder: Path, job: Mapping[str, Any], emit: Emit, stopping: Callable[[], bool]) -> Event:
    """Train as `job` says; returns the attempt's last event."""
    tokenizer = Tokenizer(Path(job["base"]["folder"]))
    decided = decide(folder, job, tokenizer)
    chosen, schedule, rows = decided.chosen, decided.schedule, decided.rows
    emit({"type": "started", "hyperparameters": asdict(chosen), "counts": asdict(rows.counts)})
    progress, processes = decided.progress(), Processes.join(decided.device)
    model = _load(decided, str(processes.device), gradient_checkpointing=progress.gradient_checkpointing)
    if decided.resume_from is None:
        _tell(_forecast(decided, model, processes), emit)
    if job["spec"]["brie"]["dry_run"]:
        return {"type": "result", "step": 0}
    facts = facts_of(job, chosen, rows.counts, tokenizer, {"seed": schedule.seed, **_machine(decided)})
    trackers = _trackers(decided, progress, processes, emit)
    reporter = Reporter(
        emit=lambda event: emit(_with_facts(event, facts)),
        progress=progress,
        schedule=schedule,
        tokens_of=lambda step: _tokens_of([rows.training[number] for number in schedule.examples_of(step)]),
        track=trackers.log,
    )
    try:
        outcome = Loop(_run_of(decided, model, processes), model, progress, reporter, stopping).run()
    finally:
        trackers.close()
    if outcome is None:
        return {"type": "stopped", "step": progress.step}
    return {
        "type": "result",
        "step": outcome.step,
        "trained_tokens": trained_tokens(rows.training, schedule, outcome.last_step),
        "provenance": facts | {"step": outcome.step, "history": list(progress.history)},
    }


def decide(folder: Path, job: Mapping[str, Any], tokenizer: Tokenizer) -> Decided:
    """Read the data and settle everything; raises InvalidDataset, DoesNotFit."""
    spec, base = job["spec"], BaseModel(job["base"]["id"], Path(job["base"]["folder"]), job["base"]["digest"])
    rows = read_rows(job, tokenizer, min(spec["brie"]["max_length"] or sys.maxsize, base.context_length))
    chosen = choose(spec, num_examples=len(rows.training), longest=rows.counts.longest, config=base.config)
    if job["from_adapter"]:
        chosen = going_on(chosen, read_json(Path(job["from_adapter"]) / "adapter_config.json"))
    device = choose_device(job["device"])
    dtype = choose_dtype(job["dtype"], device)
    attempts = [folder, *map(Path, job["earlier"])]
    shape, free = shape_of(base, chosen), free_memory(device)
    return Decided(
        job=job,
        folder=folder,
        rows=rows,
        chosen=chosen,
        schedule=_schedule(chosen, num_examples=len(rows.training), seed=spec["seed"]),
        device=device,
        dtype=dtype,
        attempts=attempts,
        resume_from=checkpoint.newest(attempts),
        plan=plan(
            shape,
            longest=longest_of([*rows.training, *rows.validation]),
            dtype=dtype,
            device=device,
            free=free,
            checkpointing=spec["brie"]["gradient_checkpointing"],
        ),
        free=free,
    )


def _schedule(chosen: Hyperparameters, *, num_examples: int, seed: int) -> Schedule:
    return Schedule(
        num_examples=num_examples,
        batch_size=chosen.batch_size,
        n_epochs=chosen.n_epochs,
        seed=seed,
        learning_rate=chosen.learning_rate,
        eval_steps=chosen.eval_steps,
        save_steps=chosen.save_steps,
    )


def _load(decided: Decided, device: str, *, gradient_checkpointing: bool) -> LoraModel:
    job, chosen = decided.job, decided.chosen
    return load(
        Path(job["base"]["folder"]),
        rank=chosen.rank,
        alpha=chosen.alpha,
        dropout=chosen.dropout,
        target_modules=chosen.target_modules,
        dtype=decided.dtype,
        device=device,
        gradient_checkpointing=gradient_checkpointing,
        quantization=job["spec"]["brie"]["quantization"],
        from_adapter=Path(job["from_adapter"]) if job["from_adapter"] else None,
        seed=decided.schedule.seed,
    )


def _tell(expected: Estimate | None, emit: Emit) -> None:
    if expected is None:
        told = "The run could not be estimated: one micro-batch alone took all the memory; smaller ones are tried now"
        emit({"type": "message", "level": "warn", "message": told})
    else:
        emit({"type": "estimate", "estimate": expected.as_json()})
        emit({"type": "message", "message": f"Estimate: {expected.in_words()}"})


def _forecast(decided: Decided, model: LoraModel, processes: Processes) -> Estimate | None:
    """Measured on the device; raises InsufficientStorage when the disk cannot hold what the run leaves."""
    speed = within_memory(lambda: measure(model, decided.rows.training))
    if speed is None:
        give_back(model.device)
        return None
    objective = _objective(decided.chosen)
    expected = estimate(
        decided.rows.counts,
        decided.schedule,
        decided.plan,
        speed,
        validation_tokens=_tokens_of(decided.rows.validation),
        adapter_bytes=4 * sum(parameter.numel() for parameter in model.parameters.values()),
        free=decided.free,
        device=decided.device,
        dtype=decided.dtype,
        processes=processes.count,
        needs_reference=objective.needs_reference,
        needs_drift=objective.needs_drift,
    )
    left = shutil.disk_usage(decided.folder).free
    if left < expected.disk_bytes:
        raise InsufficientStorage(
            f"The run's checkpoints need {expected.disk_bytes / 2**20:.0f} MiB of disk, and {left / 2**20:.0f} MiB are "
            "free: make room, or save less often (brie.save_steps)."
        )
    return expected


def _trackers(decided: Decided, progress: Progress, processes: Processes, emit: Emit) -> Trackers:
    """Those the job asks for, in the process that speaks; raises InvalidRequest before a first step."""
    if not processes.speaks:
        return Trackers()
    return Trackers.open(
        decided.job["spec"],
        decided.folder.parent.parent,
        asdict(decided.chosen),
        run=decided.job["job_id"],
        warn=lambda words: emit({"type": "message", "level": "warn", "message": words}),
        step=progress.step,
    )


def _run_of(decided: Decided, model: LoraModel, processes: Processes) -> Run:
    given = decided.job["spec"]["brie"]["early_stopping"]
    return Run(
        output=decided.folder,
        attempts=decided.attempts,
        training=decided.rows.training,
        validation=decided.rows.validation,
        schedule=decided.schedule,
        objective=_objective(decided.chosen),
        early_stopping=EarlyStopping(**given) if given else None,
        resume_from=decided.resume_from,
        processes=processes,
        at_start=lambda: _at_start(model, decided.job["from_adapter"]),
    )


def _objective(chosen: Hyperparameters) -> Objective:
    match chosen.method, chosen.beta:
        case "dpo", float(beta):
            return Preference(beta)
        case "kto", float(beta):
            return Desirability(beta)
        case _:
            return Supervised()


@contextmanager
def _at_start(model: LoraModel, from_adapter: str | None) -> Iterator[None]:
    """The model as the run found it: its base, or the adapter it goes on from."""
    if from_adapter is None:
        with model.without_adapter():
            yield
        return
    now = {name: tensor.detach().clone() for name, tensor in model.parameters.items()}
    model.copy_from(Path(from_adapter))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in model.parameters.items():
                tensor.copy_(now[name])


def _with_facts(event: Event, facts: Mapping[str, Any]) -> Event:
    """A checkpoint is published like a result, so it must tell as much."""
    if event["type"] != "checkpoint":
        return event
    return {**event, "provenance": {**facts, "step": event["step"], "history": event.pop("history")}}


def _machine(decided: Decided) -> dict[str, str]:
    return {"device": decided.device, "dtype": decided.dtype}


def _tokens_of(items: Sequence[Item]) -> int:
    return sum(len(sequence.input_ids) for item in items for sequence in item.sequences)

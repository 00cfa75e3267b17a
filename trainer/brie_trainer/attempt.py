"""One attempt at a job, from its contract to its last event: what is decided before the first step, then the loop.

It knows the job's spec and folders; it opens no database and starts no process.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from brie_core import __version__
from brie_core.errors import InvalidDataset
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import file_digest, read_json
from brie_trainer import checkpoint
from brie_trainer.checkpoint import Progress
from brie_trainer.dataset import FileParam, read_conversations, read_preferences, read_ratings
from brie_trainer.device import choose_device, choose_dtype
from brie_trainer.examples import TokenCounts
from brie_trainer.hyperparameters import Hyperparameters, choose
from brie_trainer.labels import build_examples, build_pairs, build_rated
from brie_trainer.loop import EarlyStopping, Loop, Run, trained_tokens
from brie_trainer.model import LoraModel, load
from brie_trainer.objective import Desirability, Item, Objective, Preference, Supervised
from brie_trainer.processes import Processes
from brie_trainer.reporting import Reporter
from brie_trainer.schedule import Schedule

Event = dict[str, Any]
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The job's data, ready to train on."""

    training: Sequence[Item]
    validation: Sequence[Item]
    counts: TokenCounts


def attempt(folder: Path, job: Mapping[str, Any], emit: Emit, stopping: Callable[[], bool]) -> Event:
    """Train as `job` says; returns the attempt's last event."""
    base, spec = Path(job["base"]["folder"]), job["spec"]
    config, tokenizer = read_json(base / "config.json"), Tokenizer(base)
    rows = _rows(job, tokenizer, min(spec["brie"]["max_length"] or sys.maxsize, int(config["max_position_embeddings"])))
    chosen = choose(spec, num_examples=len(rows.training), longest=rows.counts.longest, config=config)
    emit({"type": "started", "hyperparameters": asdict(chosen), "counts": asdict(rows.counts)})
    for text in _warnings(rows.counts, chosen.max_length):
        emit({"type": "message", "level": "warn", "message": text})
    device = choose_device(job["device"])
    dtype = choose_dtype(job["dtype"], device)
    attempts = [folder, *map(Path, job["earlier"])]
    resume_from = checkpoint.newest(attempts)
    schedule = Schedule(
        num_examples=len(rows.training),
        batch_size=chosen.batch_size,
        n_epochs=chosen.n_epochs,
        seed=spec["seed"],
        learning_rate=chosen.learning_rate,
        eval_steps=chosen.eval_steps,
        save_steps=chosen.save_steps,
    )
    progress = checkpoint.read_progress(resume_from) if resume_from else _fresh_progress()
    processes = Processes.join(device)
    model = _load(job, chosen, dtype, str(processes.device), gradient_checkpointing=progress.gradient_checkpointing)
    facts = _facts(job, chosen, rows.counts, tokenizer, {"seed": spec["seed"], "device": device, "dtype": dtype})
    reporter = Reporter(
        emit=lambda event: emit(_with_facts(event, facts)),
        progress=progress,
        schedule=schedule,
        tokens_of=lambda step: _tokens_of(rows.training, schedule.examples_of(step)),
    )
    run = Run(
        output=folder,
        attempts=attempts,
        training=rows.training,
        validation=rows.validation,
        schedule=schedule,
        objective=_objective(chosen),
        early_stopping=_early_stopping(spec),
        resume_from=resume_from,
        processes=processes,
        at_start=lambda: _at_start(model, job["from_adapter"]),
    )
    outcome = Loop(run, model, progress, reporter, stopping).run()
    if outcome is None:
        return {"type": "stopped", "step": progress.step}
    return {
        "type": "result",
        "step": outcome.step,
        "trained_tokens": trained_tokens(rows.training, schedule, outcome.last_step),
        "provenance": facts | {"step": outcome.step, "history": list(progress.history)},
    }


def _with_facts(event: Event, facts: Mapping[str, Any]) -> Event:
    """A checkpoint is published like a result, so it must tell as much."""
    if event["type"] != "checkpoint":
        return event
    return {**event, "provenance": {**facts, "step": event["step"], "history": event.pop("history")}}


def _fresh_progress() -> Progress:
    return Progress(token_cap=2048, evaluation_tokens=2048, gradient_checkpointing=False)


def _load(
    job: Mapping[str, Any], chosen: Hyperparameters, dtype: str, device: str, *, gradient_checkpointing: bool
) -> LoraModel:
    return load(
        Path(job["base"]["folder"]),
        rank=chosen.rank,
        alpha=chosen.alpha,
        dropout=chosen.dropout,
        target_modules=chosen.target_modules,
        dtype=dtype,
        device=device,
        gradient_checkpointing=gradient_checkpointing,
        quantization=job["spec"]["brie"]["quantization"],
        from_adapter=Path(job["from_adapter"]) if job["from_adapter"] else None,
        seed=job["spec"]["seed"],
    )


def _objective(chosen: Hyperparameters) -> Objective:
    match chosen.method, chosen.beta:
        case "dpo", float(beta):
            return Preference(beta)
        case "kto", float(beta):
            return Desirability(beta)
        case _:
            return Supervised()


def _early_stopping(spec: Mapping[str, Any]) -> EarlyStopping | None:
    given = spec["brie"]["early_stopping"]
    return EarlyStopping(**given) if given else None


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


def _tokens_of(items: Sequence[Item], numbers: Sequence[int]) -> int:
    return sum(len(sequence.input_ids) for number in numbers for sequence in items[number].sequences)


def _rows(job: Mapping[str, Any], tokenizer: Tokenizer, limit: int) -> Rows:
    training, counts = _items(job, "training_file", tokenizer, limit)
    validation = _items(job, "validation_file", tokenizer, limit)[0] if job["validation_file"] else []
    return Rows(training=training, validation=validation, counts=counts)


def _items(
    job: Mapping[str, Any], param: FileParam, tokenizer: Tokenizer, limit: int
) -> tuple[Sequence[Item], TokenCounts]:
    file = Path(job[param])
    items: Sequence[Item]
    match job["spec"]["method"]:
        case "dpo":
            items, counts = build_pairs(read_preferences(file, param), tokenizer, limit)
        case "kto":
            items, counts = build_rated(read_ratings(file, param), tokenizer, limit)
        case _:
            items, counts = build_examples(read_conversations(file, param), tokenizer, limit)
    if not items:
        raise InvalidDataset(
            f"No example of the {param.replace('_', ' ')} has an assistant token within {limit} tokens: "
            "raise max_length.",
            param=param,
            code=f"invalid_{param}",
        )
    return items, counts


def _warnings(counts: TokenCounts, max_length: int) -> Iterator[str]:
    if counts.truncated:
        share = counts.truncated / (counts.tokens + counts.truncated)
        yield f"{share:.1%} of the training tokens lie beyond {max_length} tokens and were cut off"
    if counts.dropped:
        yield f"{counts.dropped} examples have no assistant token within {max_length} tokens and were left out"


def _facts(
    job: Mapping[str, Any],
    chosen: Hyperparameters,
    counts: TokenCounts,
    tokenizer: Tokenizer,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
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

"""`python -m brie_trainer.run FOLDER`: one attempt at one fine-tuning job. The folder is the whole contract.

In: job.json, the data it names, earlier attempts' checkpoints. Out: events.jsonl, checkpoints and an adapter. It opens
no database, and it dies with the worker that started it.
"""

import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from brie_core import __version__
from brie_core.errors import BrieError, InvalidDataset
from brie_core.libraries import prepare_libraries
from brie_core.lifeline import die_with_parent
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import file_digest, read_json
from brie_trainer.dataset import FileParam, read_conversations
from brie_trainer.hyperparameters import choose
from brie_trainer.labels import Example, TokenCounts, build_examples

Emit = Callable[[dict[str, Any]], None]


def main(folder: Path) -> int:
    """Run the attempt in `folder`; the exit status is 0 if the last event is a result."""
    die_with_parent()
    prepare_libraries(os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with (folder / "events.jsonl").open("a", buffering=1) as events:

        def emit(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")

        try:
            emit(_attempt(folder, read_json(folder / "job.json"), emit))
        except BrieError as error:
            emit(
                {
                    "type": "error",
                    "code": error.code or "training_failed",
                    "message": error.message,
                    "param": error.param,
                }
            )
            return 1
        except Exception as error:  # noqa: BLE001  # the last word of this process, whatever happened
            traceback.print_exc()
            emit(
                {
                    "type": "error",
                    "code": "training_failed",
                    "message": f"{type(error).__name__}: {error}",
                    "param": None,
                }
            )
            return 1
    return 0


def _attempt(folder: Path, job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    base, spec = Path(job["base"]["folder"]), job["spec"]
    config, tokenizer = read_json(base / "config.json"), Tokenizer(base)
    limit = min(spec["brie"]["max_length"] or sys.maxsize, int(config["max_position_embeddings"]))
    training, counts = _examples(job, "training_file", tokenizer, limit)
    validation, _ = _examples(job, "validation_file", tokenizer, limit) if job["validation_file"] else ([], None)
    chosen = choose(spec, num_examples=counts.examples, longest=counts.longest, config=config)
    emit({"type": "started", "hyperparameters": asdict(chosen), "counts": asdict(counts)})
    if counts.truncated:
        share = counts.truncated / (counts.tokens + counts.truncated)
        message = f"{share:.1%} of the training tokens lie beyond {chosen.max_length} tokens and were cut off"
        emit({"type": "message", "level": "warn", "message": message})

    if counts.dropped:
        message = (
            f"{counts.dropped} examples have no assistant token within {chosen.max_length} tokens and were left out"
        )
        emit({"type": "message", "level": "warn", "message": message})

    from brie_trainer.recipe import Run, choose_device, choose_dtype, train

    device = choose_device(job["device"])
    run = Run(
        base=base,
        output=folder,
        training=training,
        validation=validation,
        hyperparameters=chosen,
        seed=spec["seed"],
        device=device,
        dtype=choose_dtype(job["dtype"], device),
        resume_from=last_checkpoint(Path(earlier) for earlier in job["earlier"]),
    )
    facts = {
        "job_id": job["job_id"],
        "training": {**asdict(chosen), "seed": run.seed, "device": run.device, "dtype": run.dtype},
        "counts": asdict(counts),
        "tokenizer": {"digest": tokenizer.digest, "chat_template_digest": tokenizer.template_digest},
        "datasets": _datasets(job),
        "software": _software(),
    }
    outcome = train(run, lambda event: emit(_with_facts(event, facts)))
    return {
        "type": "result",
        "folder": str(outcome.adapter),
        "trained_tokens": outcome.trained_tokens,
        "provenance": facts | {"step": outcome.steps, "history": list(outcome.history)},
    }


def _with_facts(event: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint is published like a result, so it must tell as much."""
    if event["type"] != "checkpoint":
        return event
    return {**event, "provenance": {**facts, "step": event["step"], "history": event.pop("history")}}


def last_checkpoint(attempts: Iterable[Path]) -> Path | None:
    """The furthest checkpoint of earlier attempts; trainer_state.json is written last, so one without it is torn."""
    whole = [
        state.parent for attempt in attempts for state in attempt.glob("checkpoints/checkpoint-*/trainer_state.json")
    ]
    return max(whole, key=lambda checkpoint: int(checkpoint.name.removeprefix("checkpoint-")), default=None)


def _examples(
    job: Mapping[str, Any], param: FileParam, tokenizer: Tokenizer, limit: int
) -> tuple[list[Example], TokenCounts]:
    conversations = read_conversations(Path(job[param]), param)
    examples, counts = build_examples(conversations, tokenizer, limit)
    if not examples:
        raise InvalidDataset(
            f"No example of the {param.replace('_', ' ')} has an assistant token within {limit} tokens: "
            "raise max_length.",
            param=param,
            code=f"invalid_{param}",
        )
    return examples, counts


def _datasets(job: Mapping[str, Any]) -> dict[str, Any]:
    files = {param: Path(job[param]) for param in ("training_file", "validation_file") if job[param]}
    return {param: {"file_id": job["spec"][param], "sha256": file_digest(file)} for param, file in files.items()}


def _software() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "trl", "accelerate")
    return {"brie": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

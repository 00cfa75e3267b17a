"""`brie train`: upload, start, follow. It knows the fields of a job, not how it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from brie_cli.connection import connect
from brie_cli.following import finish
from brie_cli.output import Json, console, failures_told
from brie_client import Brie


def train(
    file: Annotated[Path, typer.Argument(help="Training rows, JSON Lines; `brie data check` tells which forms.")],
    validation: Annotated[Path | None, typer.Option(help="Held-out rows of the same form.")] = None,
    suffix: Annotated[str | None, typer.Option(help="The name the model will answer to.")] = None,
    model: Annotated[str | None, typer.Option(help="The base model; by default the server's.")] = None,
    method: Annotated[str, typer.Option(help="supervised, dpo (preferences) or kto (rated answers).")] = "supervised",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; by default chosen from its size.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Scales the automatic learning rate.")] = None,
    beta: Annotated[float | None, typer.Option(help="How dear it is to leave the reference; dpo and kto.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per example; longer ones are cut.")] = None,
    early_stopping: Annotated[int | None, typer.Option(help="Validations without a better one that end it.")] = None,
    eval_steps: Annotated[int | None, typer.Option(help="A validation every so many steps.")] = None,
    save_steps: Annotated[int | None, typer.Option(help="A checkpoint every so many steps.")] = None,
    from_checkpoint: Annotated[str | None, typer.Option(help="A trained model to go on from.")] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="tensorboard, wandb or trackio; more than once for several.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(help="Devices to train on together.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what the run would take.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show the run until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Train an adapter on FILE."""
    client = connect()
    chosen = {"n_epochs": epochs, "batch_size": batch_size, "learning_rate_multiplier": learning_rate_multiplier}
    stopping = {"patience": early_stopping} if early_stopping else None
    brie: dict[str, Any] = {
        "rank": rank,
        "max_length": max_length,
        "early_stopping": stopping,
        "eval_steps": eval_steps,
    }
    brie |= {"save_steps": save_steps, "from_checkpoint": from_checkpoint, "num_processes": num_processes}
    brie["report_to"] = report_to or None
    brie["dry_run"] = dry_run or None
    with failures_told(str(client.base_url)):
        given: dict[str, Any] = {
            "suffix": suffix,
            "seed": seed,
            "validation_file": _upload(client, validation) if validation else None,
            "extra_body": {"brie": _given(brie)},
        }
        job = client.fine_tuning.jobs.create(
            model=model or client.models.list().data[0].id,
            training_file=_upload(client, file),
            method=_method(method, _given(chosen | {"beta": beta})),
            **_given(given),
        )
        if not as_json:
            console.print(
                f"Job [bold]{job.id}[/bold] for {escape(job.model)}: `brie jobs events {job.id}` tells its story."
            )
        finish(client, job.id, follow=follow or dry_run, as_json=as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _method(name: str, hyperparameters: dict[str, Any]) -> Any:
    """An unknown name is the server's to refuse."""
    return {"type": name, name: {"hyperparameters": hyperparameters}}


def _upload(client: Brie, file: Path) -> str:
    with file.open("rb") as stream:
        return client.files.create(file=stream, purpose="fine-tune").id

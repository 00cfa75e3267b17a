"""`brie train` and `brie jobs`: upload, start, follow. It knows the API's jobs, not how they run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from brie_cli.connection import connect
from brie_cli.output import console, emit_json, errors, failures_told, show_table
from brie_client import Brie, follow_job

jobs = typer.Typer(help="Fine-tuning jobs.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of words.")]


def train(
    file: Annotated[Path, typer.Argument(help="Training rows: OpenAI chat JSON Lines.")],
    validation: Annotated[Path | None, typer.Option(help="Held-out rows of the same form.")] = None,
    suffix: Annotated[str | None, typer.Option(help="The name the model will answer to.")] = None,
    model: Annotated[str | None, typer.Option(help="The base model; by default the server's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; by default chosen from its size.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step.")] = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Scales the automatic learning rate.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a run.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the run until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Train an adapter on FILE."""
    client = connect()
    chosen = {"n_epochs": epochs, "batch_size": batch_size, "learning_rate_multiplier": learning_rate_multiplier}
    with failures_told(str(client.base_url)):
        given: dict[str, Any] = {
            "suffix": suffix,
            "seed": seed,
            "validation_file": _upload(client, validation) if validation else None,
            "extra_body": {"brie": {"rank": rank}} if rank else None,
        }
        job = client.fine_tuning.jobs.create(
            model=model or client.models.list().data[0].id,
            training_file=_upload(client, file),
            hyperparameters={name: value for name, value in chosen.items() if value is not None},  # type: ignore[arg-type]
            **{name: value for name, value in given.items() if value is not None},
        )
        if not as_json:
            console.print(
                f"Job [bold]{job.id}[/bold] for {escape(job.model)}: `brie jobs events {job.id}` tells its story."
            )
        _finish(client, job.id, follow=follow, as_json=as_json)


@jobs.command("list")
def list_jobs(as_json: Json = False) -> None:
    """The latest jobs."""
    client = connect()
    with failures_told(str(client.base_url)):
        found = client.fine_tuning.jobs.list().data
    if as_json:
        for job in found:
            emit_json(job.model_dump(mode="json"))
        return
    show_table(("JOB", "STATUS", "MODEL"), [(job.id, job.status, job.fine_tuned_model or job.model) for job in found])


@jobs.command("show")
def show_job(job_id: str, follow: Annotated[bool, typer.Option("--follow")] = False, as_json: Json = False) -> None:
    """One job; with --follow until it ends."""
    client = connect()
    with failures_told(str(client.base_url)):
        _finish(client, job_id, follow=follow, as_json=as_json)


@jobs.command("events")
def show_events(job_id: str, as_json: Json = False) -> None:
    """Everything that happened to a job, oldest first."""
    client = connect()
    with failures_told(str(client.base_url)):
        found = list(client.fine_tuning.jobs.list_events(job_id, limit=100))
    for event in reversed(found):
        emit_json(event.model_dump(mode="json")) if as_json else console.print(escape(event.message))


@jobs.command("cancel")
def cancel_job(job_id: str, as_json: Json = False) -> None:
    """Cancel a job that is not finished."""
    client = connect()
    with failures_told(str(client.base_url)):
        _show(client.fine_tuning.jobs.cancel(job_id), as_json=as_json)


def _upload(client: Brie, file: Path) -> str:
    with file.open("rb") as stream:
        return client.files.create(file=stream, purpose="fine-tune").id


def _finish(client: Brie, job_id: str, *, follow: bool, as_json: bool) -> None:
    if follow:
        events = follow_job(client, job_id)
        _print_events(events) if as_json else _draw_events(events)
    job = client.fine_tuning.jobs.retrieve(job_id)
    _show(job, as_json=as_json)
    if job.status == "failed":
        raise typer.Exit(1)


def _print_events(events: Iterable[FineTuningJobEvent]) -> None:
    for event in events:
        emit_json(event.model_dump(mode="json"))


def _draw_events(events: Iterable[FineTuningJobEvent]) -> None:
    """A bar with loss, speed and time left; everything else scrolls above it."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=None, facts="")
        for event in events:
            data: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
            if event.type == "metrics" and "train_loss" in data:
                progress.update(bar, completed=data["step"], total=data["total_steps"], facts=_facts(data))
            else:
                progress.console.print(escape(event.message))


def _facts(data: dict[str, Any]) -> str:
    minutes, seconds = divmod(int(data["eta_seconds"]), 60)
    return f"loss {data['train_loss']:.3f}  {data['tokens_per_second']:.0f} tokens/s  {minutes}:{seconds:02d} left"


def _show(job: FineTuningJob, *, as_json: bool) -> None:
    if as_json:
        emit_json(job.model_dump(mode="json"))
    elif job.error is not None and job.error.message:
        errors.print(f"[red]{escape(job.error.message)}[/red]")
    else:
        console.print(f"{job.id} {job.status} {escape(job.fine_tuned_model or '')}")

"""`brie train` and `brie jobs`: upload, start, follow. It knows the API's jobs, not how they run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from brie_cli.connection import connect
from brie_cli.curve import draw
from brie_cli.output import console, emit_json, errors, failures_told, show_table
from brie_client import Brie, follow_job

jobs = typer.Typer(help="Fine-tuning jobs.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of words.")]


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
        _finish(client, job.id, follow=follow or dry_run, as_json=as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _method(name: str, hyperparameters: dict[str, Any]) -> Any:
    """An unknown name is the server's to refuse."""
    return {"type": name, name: {"hyperparameters": hyperparameters}}


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


@jobs.command("pause")
def pause_job(job_id: str, as_json: Json = False) -> None:
    """Stop a job behind a checkpoint; it keeps its place."""
    client = connect()
    with failures_told(str(client.base_url)):
        _show(client.fine_tuning.jobs.pause(job_id), as_json=as_json)


@jobs.command("resume")
def resume_job(job_id: str, as_json: Json = False) -> None:
    """Go on with a paused job, or with one whose folder was moved into this BRIE_HOME."""
    client = connect()
    with failures_told(str(client.base_url)):
        _show(client.fine_tuning.jobs.resume(job_id), as_json=as_json)


@jobs.command("curve")
def show_curve(job_id: str, as_json: Json = False) -> None:
    """A job's training loss, and its validation loss where there is one."""
    client = connect()
    with failures_told(str(client.base_url)):
        events = [event.data for event in reversed(list(client.fine_tuning.jobs.list_events(job_id, limit=1000)))]
    points = [event for event in events if isinstance(event, dict) and "step" in event]
    if as_json:
        for point in points:
            emit_json(point)
        return
    for name, title in (("train_loss", "training loss"), ("valid_loss", "validation loss")):
        values = [(int(point["step"]), float(point[name])) for point in points if name in point]
        if values:
            console.print(f"{title}\n{escape(draw(values, width=72, height=12))}")


def _upload(client: Brie, file: Path) -> str:
    with file.open("rb") as stream:
        return client.files.create(file=stream, purpose="fine-tune").id


def _finish(client: Brie, job_id: str, *, follow: bool, as_json: bool) -> None:
    if follow:
        events = follow_job(client, job_id)
        try:
            _print_events(events) if as_json else _draw_events(events)
        except KeyboardInterrupt:
            errors.print(
                f"The job goes on; `brie jobs show {job_id} --follow` follows it again, `brie jobs cancel` ends it."
            )
            raise typer.Exit(130) from None
    job = client.fine_tuning.jobs.retrieve(job_id)
    _show(job, as_json=as_json)
    if not as_json:
        _show_estimate(job)
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


def _show_estimate(job: FineTuningJob) -> None:
    """What a dry run has found out."""
    details: dict[str, Any] = (job.model_extra or {}).get("brie") or {}
    if details.get("options", {}).get("dry_run") and details.get("estimate"):
        rows = [(name.replace("_", " "), str(value)) for name, value in details["estimate"].items()]
        show_table(("ESTIMATE", ""), rows)


def _show(job: FineTuningJob, *, as_json: bool) -> None:
    if as_json:
        emit_json(job.model_dump(mode="json"))
    elif job.error is not None and job.error.message:
        errors.print(f"[red]{escape(job.error.message)}[/red]")
    else:
        console.print(f"{job.id} {job.status} {escape(job.fine_tuned_model or '')}")

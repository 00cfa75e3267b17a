"""A job as it is shown to people and to programs, once or until it ends. It knows no command."""

from collections.abc import Iterable
from typing import Any

import typer
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from brie_cli.output import console, emit_json, errors, show_table
from brie_client import Brie, follow_job


def finish(client: Brie, job_id: str, *, follow: bool, as_json: bool) -> None:
    """Show a job, or follow it to its end; Ctrl-C ends the following, never the job. Exit status 1 if it failed."""
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
    show(job, as_json=as_json)
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


def details_of(job: FineTuningJob) -> dict[str, Any]:
    """What is Brie's own of a job."""
    found: dict[str, Any] = (job.model_extra or {}).get("brie") or {}
    return found


def _show_estimate(job: FineTuningJob) -> None:
    """What a dry run has found out."""
    details = details_of(job)
    if details.get("options", {}).get("dry_run") and details.get("estimate"):
        rows = [(name.replace("_", " "), str(value)) for name, value in details["estimate"].items()]
        show_table(("ESTIMATE", ""), rows)


def show(job: FineTuningJob, *, as_json: bool) -> None:
    """One line, or the reason why it failed; in words also what it waits for."""
    if as_json:
        emit_json(job.model_dump(mode="json"))
    elif job.error is not None and job.error.message:
        errors.print(f"[red]{escape(job.error.message)}[/red]")
    else:
        console.print(f"{job.id} {job.status} {escape(job.fine_tuned_model or '')}".rstrip())
        if waiting := details_of(job).get("waiting"):
            console.print(escape(waiting))

"""`brie jobs`: look at jobs, pause, resume and cancel them. It knows the API's jobs, not how they run."""

from typing import Annotated

import typer
from rich.markup import escape

from brie_cli.connection import connect
from brie_cli.curve import draw
from brie_cli.following import finish, show
from brie_cli.output import Json, console, emit_json, failures_told, show_table

jobs = typer.Typer(help="Fine-tuning jobs.", no_args_is_help=True)


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
        finish(client, job_id, follow=follow, as_json=as_json)


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
        show(client.fine_tuning.jobs.cancel(job_id), as_json=as_json)


@jobs.command("pause")
def pause_job(job_id: str, as_json: Json = False) -> None:
    """Stop a job behind a checkpoint; it keeps its place."""
    client = connect()
    with failures_told(str(client.base_url)):
        show(client.fine_tuning.jobs.pause(job_id), as_json=as_json)


@jobs.command("resume")
def resume_job(job_id: str, as_json: Json = False) -> None:
    """Go on with a paused job, or with one whose folder was moved into this BRIE_HOME."""
    client = connect()
    with failures_told(str(client.base_url)):
        show(client.fine_tuning.jobs.resume(job_id), as_json=as_json)


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

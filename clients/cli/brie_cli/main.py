"""The command line's table of contents."""

import os
import sys
from typing import Annotated

import typer

from brie_cli.asking import chat, models
from brie_cli.comparing import compare
from brie_cli.connection import settings
from brie_cli.data import data
from brie_cli.doctor import doctor
from brie_cli.evaluating import evaluate
from brie_cli.jobs import jobs
from brie_cli.shipping import export
from brie_cli.supervisor import Supervisor
from brie_cli.training import train
from brie_cli.verifying import verify

app = typer.Typer(
    help="Train, serve and ship adapters of small language models.", no_args_is_help=True, add_completion=False
)
app.command()(train)
app.command()(chat)
app.command()(export)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(verify)
app.command()(doctor)
app.add_typer(data, name="data")
app.add_typer(jobs, name="jobs")
app.add_typer(models, name="models")


@app.command()
def serve(
    with_worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run a worker beside it.")] = True,
) -> None:
    """Start the API and, unless it serves a GGUF file, a worker; ends with Ctrl-C."""
    found = settings()
    sys.stderr.write(f"brie: loading {found.model}; data in {found.home}\n")
    raise typer.Exit(Supervisor(found.own_url, with_worker=with_worker and found.engine == "torch").run())


@app.command()
def worker() -> None:
    """Run a worker on its own."""
    settings()
    os.execv(sys.executable, [sys.executable, "-m", "brie_trainer"])

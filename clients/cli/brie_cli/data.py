"""`brie data`: looks at training data before anything is trained. It knows the trainer's command, not how it checks."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from brie_cli.connection import settings

data = typer.Typer(help="Training data.", no_args_is_help=True)


@data.callback()
def _() -> None:
    """Training data."""


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="Training rows, as JSON Lines.", exists=True, dir_okay=False)],
    validation: Annotated[Path | None, typer.Option(help="Held-out rows of the same kind.", exists=True)] = None,
    method: Annotated[str, typer.Option(help="supervised, dpo or kto.")] = "supervised",
    max_length: Annotated[int | None, typer.Option(help="Tokens per example; by default the model's.", min=1)] = None,
    rows: Annotated[int, typer.Option(help="How many rows to show as the model sees them.", min=0)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")] = False,
) -> None:
    """Say what FILE holds, what is wrong with it, and what is learnt of it; exits 1 if it cannot be trained on."""
    settings()
    options = {"--validation": validation, "--method": method, "--max-length": max_length, "--rows": rows}
    told = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    command = [sys.executable, "-m", "brie_trainer.check", *told, *(["--json"] if as_json else []), "--", str(file)]
    os.execv(sys.executable, command)

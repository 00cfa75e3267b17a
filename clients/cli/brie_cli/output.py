"""How results are shown: tables and words for people, JSON lines for programs. It knows no resource."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import openai
import typer
from rich.console import Console
from rich.markup import escape

Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of words.")]
console = Console(emoji=False, highlight=False, soft_wrap=True)
errors = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)


def emit_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Plain columns, as wide as they must be: a name that is cut cannot be copied."""
    lines = [list(columns), *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def read_json_file(file: Path) -> Any:
    """What a file holds; one that is no JSON is a usage error."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{file} is no JSON: {error}") from error


@contextmanager
def failures_told(base_url: str) -> Iterator[None]:
    """Errors of the API as one line on stderr: exit 1 when it refused, 3 when it could not be reached."""
    try:
        yield
    except openai.APIConnectionError as error:
        errors.print(f"[red]No Brie answers at {base_url}[/red]: start one with `brie serve`, or set BRIE_URL.")
        raise typer.Exit(3) from error
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        errors.print(f"[red]{escape(str(body.get('message') or error.message))}[/red]")
        raise typer.Exit(1) from error
    except (openai.APIError, httpx2.HTTPError, OSError) as error:
        errors.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(1) from error

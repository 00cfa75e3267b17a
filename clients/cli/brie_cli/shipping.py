"""`brie export`: a model as a GGUF file here on this machine. It knows the API's exports only."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from brie_cli.connection import connect
from brie_cli.output import console, emit_json, errors, failures_told
from brie_core.wire import ExportObject


def export(
    model: Annotated[str, typer.Argument(help="A name from `brie models list`.")],
    quantization: Annotated[str, typer.Option(help="f16, q8_0, q4_k_m, ...")] = "q8_0",
    output: Annotated[Path | None, typer.Option(help="Where to write; by default here, under its own name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of words.")] = False,
) -> None:
    """Merge MODEL into its base, write it as GGUF, verify it, and download it."""
    client = connect()
    with failures_told(str(client.base_url)):
        started = client.exports.create(model=model, quantization=quantization)
        current = started
        for current in client.exports.follow(started.id):
            _show(current, as_json=as_json)
        if current.status != "succeeded":
            errors.print(f"[red]{escape(current.error.message if current.error else current.status)}[/red]")
            raise typer.Exit(1)
        path = client.exports.download(current, _target(output, current))
    emit_json({"path": str(path), "sha256": current.files[0].sha256}) if as_json else console.print(escape(str(path)))


def _target(output: Path | None, export: ExportObject) -> Path:
    name = Path(export.files[0].filename).name
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


def _show(export: ExportObject, *, as_json: bool) -> None:
    if as_json:
        emit_json(export.model_dump(mode="json"))
    elif export.message:
        console.print(f"{export.progress:4.0%}  {escape(export.message)}")

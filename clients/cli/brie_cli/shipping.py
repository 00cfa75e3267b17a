"""`brie export`: a model as files here on this machine. It knows the API's exports only."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from brie_cli.connection import connect
from brie_cli.output import console, emit_json, errors, failures_told
from brie_client import Brie
from brie_core.wire import ExportedFile, ExportObject

_DEFAULT_QUANTIZATION = "q8_0"


def export(
    model: Annotated[str | None, typer.Argument(help="A name from `brie models list`.")] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="gguf (a file for llama.cpp), gguf_adapter (an adapter for it), merged (a Hugging Face folder) or "
            "peft (the adapter's folder as an archive).",
        ),
    ] = "gguf",
    quantization: Annotated[
        str | None, typer.Option(help=f"Of gguf: f16, {_DEFAULT_QUANTIZATION} (default), q4_k_m, ...")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of merged: f32, f16 or bf16; by default the checkpoint's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write; by default here, under its own name.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="A folder with the card, the manifest and, of gguf, the Modelfile.")
    ] = False,
    existing: Annotated[
        str | None, typer.Option("--id", help="Follow and download this export instead of starting one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of words.")] = False,
) -> None:
    """Export MODEL, verified, and download it; a download that broke off goes on where it was."""
    if (model is None) == (existing is None):
        raise typer.BadParameter("give a MODEL, or --id with an export that is there")
    client = connect()
    with failures_told(str(client.base_url)):
        if existing is None:
            chosen = quantization or (_DEFAULT_QUANTIZATION if format_ == "gguf" else None)
            existing = client.exports.create(model=model or "", format=format_, quantization=chosen, dtype=dtype).id
        current = _followed(client, existing, as_json=as_json)
        path = _download(client, current, output, everything=everything, as_json=as_json)
    _tell(current, path, as_json=as_json)


def _followed(client: Brie, export_id: str, *, as_json: bool) -> ExportObject:
    """The finished export; ends the process if it did not succeed."""
    current = None
    for current in client.exports.follow(export_id):
        if as_json:
            emit_json(current.model_dump(mode="json"))
        elif current.message:
            console.print(f"{current.progress:4.0%}  {escape(current.message)}")
    assert current is not None
    if current.status != "succeeded":
        errors.print(f"[red]{escape(current.error.message if current.error else current.status)}[/red]")
        raise typer.Exit(1)
    return current


def _download(client: Brie, export: ExportObject, output: Path | None, *, everything: bool, as_json: bool) -> Path:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True, disable=as_json or not errors.is_terminal) as bars:
        shown = {file.filename: bars.add_task(file.filename, total=file.bytes, visible=False) for file in export.files}

        def arrived(file: ExportedFile, here: int) -> None:
            bars.update(shown[file.filename], completed=here, visible=here < file.bytes)

        if everything or export.format == "merged":
            return client.exports.download_all(export, _folder(output, export), arrived)
        return client.exports.download(export, _file(output, export), arrived=arrived)


def _file(output: Path | None, export: ExportObject) -> Path:
    name = Path(export.files[0].filename).name
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output


def _folder(output: Path | None, export: ExportObject) -> Path:
    """Named as the main file is, or, of a merged folder, as the model."""
    if output is not None:
        return output
    if export.format == "merged":
        return Path("".join(c if c.isalnum() or c in "._-" else "-" for c in export.model).strip("-.") or "model")
    return Path(Path(export.files[0].filename).stem)


def _tell(export: ExportObject, path: Path, *, as_json: bool) -> None:
    command = _command(export, path)
    if as_json:
        told = {"path": str(path), "id": export.id, "sha256": export.files[0].sha256, "serve": command}
        emit_json({name: value for name, value in told.items() if value is not None})
        return
    console.print(escape(str(path)))
    if command:
        errors.print(f"[dim]Serve it: {escape(command)}[/dim]")


def _command(export: ExportObject, path: Path) -> str | None:
    """How to serve what was downloaded; None for an adapter, which needs its base."""
    if export.format == "gguf":
        file = path / export.files[0].filename if path.is_dir() else path
        return f"BRIE_ENGINE=llamacpp BRIE_MODEL={file.absolute()} brie serve"
    return f"BRIE_MODEL={path.absolute()} brie serve" if export.format == "merged" else None

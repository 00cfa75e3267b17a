"""`brie chat` and `brie models`: ask a model, see which there are. It knows the API only."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from brie_cli.connection import connect
from brie_cli.output import console, emit_json, failures_told, read_json_file, show_table
from brie_client import Brie

models = typer.Typer(help="Models and adapters.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of words.")]


def chat(
    model: Annotated[str, typer.Argument(help="A name from `brie models list`.")],
    message: Annotated[str | None, typer.Argument(help="One question; without it, a conversation.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is the same answer every time.")] = None,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of one answer.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Repeats an answer.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    as_json: Json = False,
) -> None:
    """Talk to a model; ends with an empty line, or the end of input."""
    client = connect()
    options = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    history: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    with failures_told(str(client.base_url)):
        client.models.retrieve(model)
        while question := message or _next_question():
            history.append({"role": "user", "content": question})
            answer = _answer(client, model, history, options, as_json=as_json)
            history.append({"role": "assistant", "content": answer})
            if message:
                return


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """Every name that can be asked."""
    client = connect()
    with failures_told(str(client.base_url)):
        found = [model.model_dump(mode="json") for model in client.models.list()]
    if as_json:
        for model in found:
            emit_json(model)
        return
    show_table(("MODEL", "VERSION", "BASE"), [(m["id"], (m["root"] or "")[:12], m["parent"]) for m in found])


@models.command("rm")
def delete_model(name: str, as_json: Json = False) -> None:
    """Delete an adapter's name, and its version with the last name."""
    client = connect()
    with failures_told(str(client.base_url)):
        deleted = client.models.delete(name)
    emit_json(deleted.model_dump(mode="json")) if as_json else console.print(f"{escape(name)} is deleted.")


@models.command("point")
def point_model(
    name: Annotated[str, typer.Argument(help="The name that is to answer from TO.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Another name, or the digest of a version.")],
    gate: Annotated[bool, typer.Option("--gate", help="Only if the version has passed the gate of NAME.")] = False,
    as_json: Json = False,
) -> None:
    """Point a name at another version, unless somebody else has meanwhile."""
    client = connect()
    with failures_told(str(client.base_url)):
        names = {adapter.id: adapter.version for adapter in client.adapters.list()}
        moved = client.adapters.point(name, names.get(target, target), names.get(name), gate=gate)
    if as_json:
        emit_json(moved.model_dump(mode="json"))
    else:
        console.print(f"{escape(moved.id)} answers from version {moved.version[:12]}.")


@models.command("gate")
def gate_model(
    name: Annotated[str, typer.Argument(help="An adapter's name.")],
    file: Annotated[
        Path | None, typer.Argument(help="Bounds, as `brie eval --gate` has them; none shows them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Store what a version must keep to before NAME moves to it with --gate, or show it."""
    client = connect()
    with failures_told(str(client.base_url)):
        bounds = None if file is None else read_json_file(file)
        gate = client.gates.retrieve(name) if bounds is None else client.gates.put(name, bounds)
    if as_json:
        emit_json(gate.model_dump(mode="json"))
        return
    show_table(("FIGURE", "MIN", "MAX"), [(path, b.get("min"), b.get("max")) for path, b in gate.bounds.items()])


def _next_question() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _answer(client: Brie, model: str, history: Any, options: Any, *, as_json: bool) -> str:
    stream = client.chat.completions.create(model=model, messages=history, stream=True, **options)
    parts = []
    for chunk in stream:
        text = chunk.choices[0].delta.content or "" if chunk.choices else ""
        parts.append(text)
        if not as_json:
            typer.echo(text, nl=False)
    answer = "".join(parts)
    emit_json({"model": model, "content": answer}) if as_json else typer.echo()
    return answer

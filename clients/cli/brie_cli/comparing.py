"""`brie compare`: two models' answers to the same prompts, side by side. It knows the API, and no figure."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from brie_cli.connection import connect
from brie_cli.output import Json, console, emit_json, failures_told
from brie_client import Brie

_OWN_SET = "brie_trainer.prompt_set"


def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="A name from `brie models list`.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    prompt: Annotated[str | None, typer.Argument(help="One prompt; without it, Brie's own by theme.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts, JSON Lines.", exists=True, dir_okay=False)] = None,
    theme: Annotated[list[str] | None, typer.Option(help="Only prompts of this theme; more than once.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many prompts of each theme.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(help="0 is the most probable token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of one answer.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="The same for both.")] = 0,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    as_json: Json = False,
) -> None:
    """Ask A and B the same, with the same seed, and show both answers side by side."""
    if prompt is not None and prompts is not None:
        raise typer.BadParameter("give a PROMPT or --prompts, not both")
    if one == other:
        raise typer.BadParameter("A and B are the same model: with the same seed it gives the same answer")
    asked = [{"prompt": prompt}] if prompt is not None else list(_chosen(_lines(prompts), theme, limit))
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    client = connect()
    with failures_told(str(client.base_url)):
        for name in (one, other):
            client.models.retrieve(name)
        for row in asked:
            answers = {name: _answer(client, name, _messages(row, system), sampling) for name in (one, other)}
            if as_json:
                emit_json({**row, "answers": answers})
            else:
                _show(row, answers)


def _lines(file: Path | None) -> list[dict[str, Any]]:
    """From a file, or the evaluation's own set, which its own program tells."""
    if file is not None:
        return _read(file)
    told = subprocess.run([sys.executable, "-m", _OWN_SET], capture_output=True, text=True, check=False)
    if told.returncode != 0:
        raise typer.BadParameter("Brie's own prompts come with its trainer, which is not installed: give a PROMPT")
    return [json.loads(line) for line in told.stdout.splitlines()]


def _read(file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise typer.BadParameter(f"line {number} of {file} is no JSON: {error}") from error
        if not isinstance(row, dict) or not (_is_text(row.get("prompt")) or _are_messages(row.get("messages"))):
            raise typer.BadParameter(f"line {number} of {file} has neither a 'prompt' nor 'messages'")
        rows.append(row)
    return rows


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_messages(value: Any) -> bool:
    are = isinstance(value, list) and bool(value)
    return are and all(isinstance(each, dict) and _is_text(each.get("content")) for each in value)


def _chosen(rows: list[dict[str, Any]], themes: list[str] | None, limit: int) -> Iterator[dict[str, Any]]:
    known = dict.fromkeys(str(row.get("theme", "all")) for row in rows)
    if unknown := [theme for theme in themes or () if theme not in known]:
        raise typer.BadParameter(f"there is no theme {unknown[0]}, but {', '.join(known)}")
    seen: dict[str, int] = {}
    for row in rows:
        theme = str(row.get("theme", "all"))
        if themes and theme not in themes:
            continue
        seen[theme] = seen.get(theme, 0) + 1
        if seen[theme] <= limit:
            yield row


def _messages(row: dict[str, Any], system: str | None) -> list[Any]:
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt", "")}]
    return [{"role": "system", "content": system}, *messages] if system else list(messages)


def _answer(client: Brie, model: str, messages: list[Any], sampling: dict[str, Any]) -> str:
    answer = client.chat.completions.create(model=model, messages=messages, **sampling)
    return answer.choices[0].message.content or ""


def _show(row: dict[str, Any], answers: dict[str, str]) -> None:
    title = row.get("prompt") or _messages(row, None)[-1]["content"]
    theme = f"[dim]{escape(str(row['theme']))}[/dim]\n" if "theme" in row else ""
    table = Table(title=f"{theme}{escape(title)}", title_justify="left", expand=True)
    for name in answers:
        table.add_column(escape(name), ratio=1, overflow="fold")
    table.add_row(*map(escape, answers.values()))
    console.print(table, soft_wrap=False)

"""`brie eval`: is a model better? Uploads, follows, shows the report. It knows the API's evaluations only.

Exit status: 0 the evaluation has ended and every bound of its gate holds, 1 it was refused or has failed, 2 the command
was misspelt, 3 no Brie answers, 4 a bound of the gate does not hold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from brie_cli.connection import connect
from brie_cli.output import Json, console, emit_json, errors, failures_told, read_json_file
from brie_cli.report_tables import show_report
from brie_client import Brie
from brie_core.wire import EvaluationObject

GATE_FAILED = 4
_FILES = ("report.json", "page.html", "card.md")


Models = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL", help="Names here, or URL#MODEL behind another server.")
]
Job = Annotated[str | None, typer.Option(help="Every checkpoint of this fine-tuning job.")]
Against = Annotated[str | None, typer.Option(help="What to compare with; by default the base model.")]
Data = Annotated[
    str | None, typer.Option(help="Held-out rows (a file, or none); by default the training's validation file.")
]
Prompts = Annotated[str | None, typer.Option(help="Prompts, JSON Lines (a file, or none); by default Brie's own.")]
Themes = Annotated[list[str] | None, typer.Option("--theme", help="Only prompts of this theme; more than once.")]
Limit = Annotated[int | None, typer.Option(help="At most so many prompts of each theme.", min=1)]
HeldOutPrompts = Annotated[int | None, typer.Option(help="So many held-out rows are asked as prompts, too.", min=0)]
JudgeUrls = Annotated[list[str] | None, typer.Option("--judge", help="A judge's server, with /v1; more than once.")]
JudgeModels = Annotated[
    list[str] | None,
    typer.Option("--judge-model", help="A judge's model; without --judge one of this server. More than once."),
]
JudgeKeys = Annotated[
    list[str] | None,
    typer.Option("--judge-key-env", help="The worker's variable BRIE_EVALUATION_KEY... with that judge's key."),
]
KeyEnv = Annotated[str | None, typer.Option(help="The same for models behind another server.")]
Samples = Annotated[int | None, typer.Option(help="Answers to each prompt.", min=1)]
Temperature = Annotated[float | None, typer.Option(help="0 is the most probable token.")]
TopP = Annotated[float | None, typer.Option(help="Above 0, to 1.")]
Penalty = Annotated[float | None, typer.Option(help="1 is none.")]
MaxTokens = Annotated[int | None, typer.Option(help="The most tokens of one answer.", min=1)]
System = Annotated[str | None, typer.Option(help="A system message.")]
Sweep = Annotated[
    list[str] | None, typer.Option(help="temperature=0.2,0.7: a grid of samplings; once for each setting.")
]
Gate = Annotated[
    str | None, typer.Option(help="A file of bounds, or the name whose stored gate is meant; exit 4 if not kept.")
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same report; by default 0.", min=0)]
Output = Annotated[Path | None, typer.Option(help="A folder for report.json, page.html and card.md.")]
Existing = Annotated[str | None, typer.Option("--id", help="Follow and show this evaluation instead.")]
Resumed = Annotated[str | None, typer.Option("--resume", help="Go on with this evaluation, which has failed.")]


def evaluate(
    models: Models = None,
    job: Job = None,
    against: Against = None,
    data: Data = None,
    prompts: Prompts = None,
    themes: Themes = None,
    limit: Limit = None,
    held_out_prompts: HeldOutPrompts = None,
    judge_urls: JudgeUrls = None,
    judge_models: JudgeModels = None,
    judge_keys: JudgeKeys = None,
    key_env: KeyEnv = None,
    samples: Samples = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    max_tokens: MaxTokens = None,
    system: System = None,
    sweep: Sweep = None,
    gate: Gate = None,
    seed: Seed = None,
    output: Output = None,
    existing: Existing = None,
    resumed: Resumed = None,
    as_json: Json = False,
) -> None:
    """Measure MODEL against the base: held-out loss, answers, judges. Exit 4: a bound of the gate does not hold."""
    if sum(map(bool, (models, job, existing, resumed))) != 1:
        raise typer.BadParameter("give a MODEL, or --job, or --id, or --resume")
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    sampling |= {"repetition_penalty": repetition_penalty, "system_prompt": system}
    plain = {"job": job, "themes": themes or None, "limit": limit, "samples": samples, "seed": seed}
    asked: dict[str, Any] = {
        **plain,
        "models": [_candidate(each, key_env) for each in models] if models else None,
        "against": _candidate(against, key_env) if against else None,
        "judges": _judges(judge_urls or [], judge_models or [], judge_keys or []),
        "sampling": _given(sampling) or None,
        "sweep": _sweep(sweep or []),
        "held_out_prompts": held_out_prompts,
        **_gate(gate),
    }
    if (existing or resumed) and _given({**asked, "data": data, "prompts": prompts}):
        raise typer.BadParameter("beside --id and --resume there can be --output and --json alone")
    client = connect()
    with failures_told(str(client.base_url)):
        if resumed is not None:
            existing = client.evaluations.resume(resumed).id
        elif existing is None:
            asked |= {"data": _file(client, data, "fine-tune"), "prompts": _file(client, prompts, "user_data")}
            existing = client.evaluations.create(**_given(asked)).id
        done = _followed(client, existing, as_json=as_json)
        report = client.evaluations.report(done.id)
        written = [] if output is None else _written(client, done, output)
    _tell(done, report, written, as_json=as_json)
    if done.gate_passed is False:
        raise typer.Exit(GATE_FAILED)


def _candidate(named: str, key_env: str | None) -> str | dict[str, Any]:
    """`http://host/v1#name` is a model behind another server."""
    url, mark, model = named.partition("#")
    if not mark or not url.startswith(("http://", "https://")):
        return named
    return _given({"base_url": url, "model": model, "key_env": key_env})


def _judges(urls: Sequence[str], models: Sequence[str], keys: Sequence[str]) -> list[dict[str, Any]] | None:
    """Of this server where no URL is given; else one URL, and one variable or none, for each model."""
    if not models and not urls:
        return None
    if (urls and len(urls) != len(models)) or (keys and len(keys) != len(models)):
        raise typer.BadParameter("give a --judge-model for each --judge, and as many --judge-key-env or none")
    judges = [_given({"model": model}) for model in models]
    for name, values in (("base_url", urls), ("key_env", keys)):
        for told, value in zip(judges, values, strict=False):
            told[name] = value
    return judges


def _sweep(given: Sequence[str]) -> dict[str, Any] | None:
    grid: dict[str, Any] = {}
    for each in given:
        name, mark, values = each.partition("=")
        if not mark:
            raise typer.BadParameter(f"--sweep {each} is not like temperature=0.2,0.7")
        try:
            grid[name] = [values] if name == "system_prompt" else [float(value) for value in values.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"--sweep {each}: {error}") from error
    return grid or None


def _gate(given: str | None) -> dict[str, Any]:
    """Bounds from a file, or a name as it stands."""
    if given is None or not Path(given).is_file():
        return {"gate_of": given}
    return {"gate": read_json_file(Path(given))}


def _file(client: Brie, given: str | None, purpose: Any) -> str | None:
    """An uploaded file's id; what is no path stands for itself: none, or an id."""
    if given is None or not ("/" in given or "." in given or Path(given).is_file()):
        return given
    with Path(given).open("rb") as stream:
        return client.files.create(file=stream, purpose=purpose).id


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _followed(client: Brie, evaluation_id: str, *, as_json: bool) -> EvaluationObject:
    """The finished evaluation; ends the process if it did not succeed. Ctrl-C ends the following alone."""
    current, told = None, None
    try:
        for current in client.evaluations.follow(evaluation_id):
            if as_json:
                emit_json(current.model_dump(mode="json"))
            elif current.message and current.message != told:
                errors.print(f"{current.progress:4.0%}  {escape(current.message)}")
            told = current.message
    except KeyboardInterrupt:
        errors.print(f"The evaluation goes on; `brie eval --id {evaluation_id}` follows it again.")
        raise typer.Exit(130) from None
    assert current is not None
    if current.status != "succeeded":
        errors.print(f"[red]{escape(current.error.message if current.error else current.status)}[/red]")
        if current.status == "failed":
            errors.print(f"What was answered is kept; `brie eval --resume {evaluation_id}` goes on from there.")
        raise typer.Exit(1)
    return current


def _written(client: Brie, done: EvaluationObject, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [file.filename for file in done.files if file.filename in (*_FILES, "gate.json")]
    for name in names:
        if (folder / name).is_file():  # of an earlier evaluation: replaced, as a report is
            (folder / name).unlink()
        client.evaluations.download(done, folder / name, name)
    return [folder / name for name in names]


def _tell(done: EvaluationObject, report: dict[str, Any], written: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        paths = [str(path) for path in written]
        emit_json({"id": done.id, "gate_passed": done.gate_passed, "files": paths, "report": report})
        return
    if done.data:
        console.print(f"Held-out rows: {escape(done.data)} ({escape(done.data_source or '')})")
    show_report(report)
    for sentence in done.gate_sentences:
        console.print(f"Gate: {escape(sentence)}")
    if done.gate_passed is not None:
        colour, word = ("green", "passed") if done.gate_passed else ("red", "not passed")
        console.print(f"[{colour}]The gate is {word}.[/{colour}]")
    for path in written:
        console.print(escape(str(path)))

"""`python -m brie_trainer.check FILE`: what a job would say of its data, without a server, a job or a model's weights.

The exit status is 0 for data that can be trained on, 1 for data that cannot, 2 for settings that cannot be used.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from brie_core.errors import BrieError, InvalidDataset
from brie_core.libraries import prepare_libraries
from brie_core.settings import Settings
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import resolve_base_model
from brie_trainer.data import preview
from brie_trainer.data.dataset import METHODS
from brie_trainer.data.report import DataReport, FileReport
from brie_trainer.data.validation import check_files

_BAR = 40


def main(arguments: Sequence[str]) -> int:
    """Check the files that the command line names."""
    given = _parser().parse_args(arguments)
    prepare_libraries(os.environ)
    try:
        settings = Settings.from_environment(os.environ)
        base = resolve_base_model(settings)
        return _check(given, base, settings.min_examples)
    except InvalidDataset as error:
        return _refuse(error, as_json=given.as_json)
    except BrieError as error:
        sys.stderr.write(f"brie: {error.message}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="brie data check", description="Check training data without training.")
    parser.add_argument("file", type=_file, metavar="FILE", help="training rows, as JSON Lines")
    parser.add_argument("--validation", type=_file, metavar="FILE", help="held-out rows of the same kind")
    parser.add_argument("--method", choices=METHODS, default="supervised")
    parser.add_argument("--max-length", type=_number, metavar="N", help="tokens per example; the model's by default")
    parser.add_argument("--rows", type=_number_or_none, default=2, metavar="N", help="rows to show; 2 by default")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object instead of words")
    return parser


def _check(given: argparse.Namespace, base: BaseModel, min_examples: int) -> int:
    tokenizer = Tokenizer(base.folder)
    max_length = min(given.max_length or sys.maxsize, base.context_length)
    report = check_files(given.file, given.validation, tokenizer, given.method, max_length, min_examples)
    shown = preview.show_file(given.file, "training_file", given.method, tokenizer, max_length, given.rows)
    if given.as_json:
        told = {"model": base.id, **report.as_json(), "preview": preview.as_json(shown)}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
    else:
        _tell(base, report, shown, Console(emoji=False, highlight=False, soft_wrap=True, markup=False))
    return 0


def _refuse(error: InvalidDataset, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps(error.envelope(), ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(f"{error.message}\n")
    return 1


def _tell(base: BaseModel, report: DataReport, shown: list[preview.ShownSequence], console: Console) -> None:
    console.print(f"{report.method}, {base.id}, at most {report.max_length} tokens per example\n")
    _tell_file("training", report.training, console)
    if report.validation is not None:
        _tell_file("validation", report.validation, console)
    if report.default_system and report.training.rows_with_system < report.training.rows:
        quoted = json.dumps(report.default_system, ensure_ascii=False)
        console.print(f"Rows without a system message are trained with the chat template's own: {quoted}")
    for finding in report.findings:
        lines = f" (lines {', '.join(map(str, finding.lines))})" if finding.lines else ""
        style = "yellow" if finding.level == "warn" else None
        console.print(f"{finding.level}: {finding.message}{lines}", style=style)
    for sequence in shown:
        console.print()
        console.print(preview.as_text(sequence, in_colours=console.color_system is not None))


def _tell_file(name: str, report: FileReport, console: Console) -> None:
    console.print(
        f"{name}: {report.rows} rows, {report.examples} examples, {report.tokens} tokens, "
        f"{report.trained_tokens} of them learnt"
    )
    shares = ", ".join(f"{share} % within {tokens}" for share, tokens in report.percentiles.items())
    console.print(f"tokens per sequence: {shares}, the longest {report.longest}")
    most = max(sequences for _, sequences in report.histogram)
    for up_to, sequences in report.histogram:
        console.print(f"{up_to:>9} {'#' * round(_BAR * sequences / most):<{_BAR}} {sequences}")
    console.print()


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file")
    return path


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _number_or_none(text: str) -> int:
    return 0 if text == "0" else _number(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

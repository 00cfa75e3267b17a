"""A job's files read to their ends and tokenised: what they hold, or the first thing that is wrong. It trains nothing.

One row is in memory at a time.
"""

from pathlib import Path

from brie_core.errors import InvalidDataset, InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_trainer.data.dataset import called, invalid, stream_dataset
from brie_trainer.data.findings import findings_of, leak
from brie_trainer.data.labels import made_of
from brie_trainer.data.report import DataReport, Finding
from brie_trainer.data.rows import Completion, Conversation, FileParam, Learnable, Method, Preference, Rating, Row
from brie_trainer.data.survey import Survey
from brie_trainer.data.system_prompt import default_system


def check_files(  # noqa: PLR0913, PLR0917  # a job's whole data, and what it is for
    training: Path,
    validation: Path | None,
    tokenizer: Tokenizer,
    method: Method,
    max_length: int,
    min_examples: int = 1,
) -> DataReport:
    """Raises InvalidDataset; its code is invalid_training_file, invalid_validation_file or invalid_n_examples."""
    trained, is_text = _survey(training, "training_file", tokenizer, method, max_length)
    _check_number(trained, "training_file", min_examples)
    held_out = None
    if validation is not None:
        held_out, _ = _survey(validation, "validation_file", tokenizer, method, max_length)
        _check_number(held_out, "validation_file", 1)
    own = None if is_text else default_system(tokenizer)
    return _report(trained, held_out, method, own, is_text=is_text)


def _survey(file: Path, param: FileParam, tokenizer: Tokenizer, method: Method, max_length: int) -> tuple[Survey, bool]:
    survey, is_text = Survey(max_length), False
    for line, row in stream_dataset(file, param, method):
        try:
            made = made_of(row, tokenizer, max_length)
        except InvalidRequest as error:
            message = f"Line {line} of the {called(param)} cannot be trained on: {error.message}"
            raise invalid(message, param) from error
        answered = _answered(row)
        is_text = isinstance(answered, Completion)
        survey.add(line, made, has_system=_has_system(answered), has_prompt=_has_prompt(answered))
    return survey, is_text


def _check_number(survey: Survey, param: FileParam, wanted: int) -> None:
    if not survey.examples:
        reason = (
            "every pair has two equal answers"
            if survey.equal_pairs == survey.rows
            else f"no answer begins within {survey.max_length} tokens: raise max_length"
        )
        raise invalid(f"Nothing can be learnt from the {called(param)}: {reason}.", param)
    if survey.examples < wanted:
        raise InvalidDataset(
            f"{called(param).capitalize()} has {survey.examples} example(s), but must have at least {wanted} examples.",
            param=param,
            code="invalid_n_examples",
        )


def _report(trained: Survey, held_out: Survey | None, method: Method, own: str | None, *, is_text: bool) -> DataReport:
    training, validation = trained.report(), None if held_out is None else held_out.report()
    findings = list(findings_of(trained, training, "training_file"))
    if is_text:
        message = "The rows are text, and no conversations: what is learnt shows at /v1/completions, not in chat."
        findings.append(Finding("info", "plain_text", message))
    leaked: list[int] = []
    if held_out is not None and validation is not None:
        findings += findings_of(held_out, validation, "validation_file")
        leaked = held_out.lines_with(trained.prompts)
        findings += [leak(leaked)] if leaked else []
    return DataReport(
        method=method,
        max_length=trained.max_length,
        training=training,
        validation=validation,
        leaked_rows=len(leaked),
        default_system=own,
        findings=tuple(findings),
    )


def _answered(row: Row) -> Learnable:
    if isinstance(row, Preference):
        return row.chosen
    return row.answered if isinstance(row, Rating) else row


def _has_system(row: Learnable) -> bool:
    return isinstance(row, Conversation) and any(turn.role == "system" for turn in row.turns)


def _has_prompt(row: Learnable) -> bool:
    return isinstance(row, Conversation) or bool(row.prompt.strip())

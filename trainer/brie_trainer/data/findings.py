"""What is worth saying of data that can be trained on. It knows counts, and no file and no token."""

from collections.abc import Iterator

from brie_trainer.data.report import FileReport, Finding, Level
from brie_trainer.data.rows import FileParam
from brie_trainer.data.survey import Survey

_FEW = 10
_SHOWN = 5
_TRUNCATION_TO_WARN_OF = 0.005


def findings_of(survey: Survey, report: FileReport, param: FileParam) -> Iterator[Finding]:
    """Of one file."""
    name = param.replace("_", " ")
    if report.examples < _FEW and param == "training_file":
        message = f"The {name} has {report.examples} example(s): from fewer than {_FEW} little is learnt."
        yield Finding("warn", "few_examples", message)
    yield from _of_length(survey, report, name)
    yield from _of_repetition(survey, report, name)
    yield from _of_answers(survey, report, name)


def leak(lines: list[int]) -> Finding:
    """That the files share prompts."""
    return Finding(
        "warn",
        "leaked_prompts",
        f"{len(lines)} row(s) of the validation file have a prompt that is in the training file, too: "
        "the validation loss will look better than it is. Split by prompt.",
        tuple(lines[:_SHOWN]),
    )


def _of_length(survey: Survey, report: FileReport, name: str) -> Iterator[Finding]:
    if report.truncated_rows:
        level: Level = "warn" if report.truncated_share > _TRUNCATION_TO_WARN_OF else "info"
        yield Finding(
            level,
            "truncated",
            f"{report.truncated_share:.1%} of the {name}'s tokens, in {report.truncated_rows} of {report.rows} rows, "
            f"lie beyond {survey.max_length} tokens and are cut off. The longest has {report.longest}: "
            "raise max_length.",
            tuple(survey.first_lines["cut_rows"]),
        )
    if report.dropped_rows:
        yield Finding(
            "warn",
            "dropped",
            f"{report.dropped_rows} row(s) of the {name} have an answer that begins beyond {survey.max_length} tokens, "
            "and are left out. Raise max_length.",
            tuple(survey.first_lines["dropped_rows"]),
        )
    if survey.split_rows:
        yield Finding(
            "info",
            "split",
            f"The model's chat template shows earlier answers otherwise than new ones: {survey.split_rows} row(s) of "
            f"the {name} are trained as one example per answer.",
        )


def _of_repetition(survey: Survey, report: FileReport, name: str) -> Iterator[Finding]:
    if report.duplicate_rows:
        message = f"{report.duplicate_rows} row(s) of the {name} repeat an earlier one: they count twice."
        yield Finding("warn", "duplicates", message, tuple(survey.repeated_lines()[:_SHOWN]))
    if report.unique_prompts + report.duplicate_rows < report.rows:
        message = f"The {name}'s {report.rows} rows have {report.unique_prompts} different prompts."
        yield Finding("info", "repeated_prompts", message)


def _of_answers(survey: Survey, report: FileReport, name: str) -> Iterator[Finding]:
    if report.equal_pairs:
        yield Finding(
            "warn",
            "equal_pairs",
            f"{report.equal_pairs} pair(s) of the {name} have two equal answers: they teach nothing and are left out.",
            tuple(survey.first_lines["equal_pairs"]),
        )
    if report.short_answers:
        message = f"{report.short_answers} row(s) of the {name} have an answer of one token or none."
        yield Finding("info", "short_answers", message, tuple(survey.first_lines["short_answers"]))
    if 0 < report.rows_with_system < report.rows:
        yield Finding(
            "info",
            "mixed_system",
            f"{report.rows_with_system} of the {name}'s {report.rows} rows have a system message, the others none.",
        )
    if report.desirable is not None and report.desirable in (0, report.rows):
        message = f"All answers of the {name} are rated alike: kto learns from the difference."
        yield Finding("warn", "one_sided", message)

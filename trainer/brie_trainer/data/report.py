"""What a training and a validation file hold, and what its owner should know of it. Pure numbers; it knows no file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from brie_trainer.data.rows import Method

Level = Literal["info", "warn"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know before training."""

    level: Level
    code: str
    message: str
    lines: tuple[int, ...] = ()
    """The first lines it is true of, where it is true of lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file. Tokens are of whole sequences, prompts included; of a pair both sequences count."""

    rows: int
    examples: int
    """What is trained on: fewer than rows where some are dropped, more where a template rewrites earlier turns."""
    tokens: int
    trained_tokens: int
    """Tokens that the loss counts in one epoch."""
    truncated_tokens: int
    """Tokens beyond the maximum length, which are not trained on."""
    truncated_rows: int
    dropped_rows: int
    """Rows of which something is left out whole, because nothing of the answer lies within the maximum length."""
    equal_pairs: int
    longest: int
    """Tokens of the longest sequence, before it is cut."""
    percentiles: Mapping[str, int]
    """Tokens per sequence that 50, 90, 95 and 99 % of the sequences do not exceed."""
    histogram: Sequence[tuple[int, int]]
    """(tokens, sequences): how many have at most so many tokens, and more than the entry before."""
    duplicate_rows: int
    """Rows that are token by token an earlier one."""
    unique_prompts: int
    short_answers: int
    """Rows whose answer is a single token, or none but the stop."""
    rows_with_system: int
    desirable: int | None = None
    """Of ratings, how many say that the answer is wanted."""

    @property
    def truncated_share(self) -> float:
        """Of the tokens, 0 to 1."""
        return self.truncated_tokens / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """Both files together."""

    method: Method
    max_length: int
    training: FileReport
    validation: FileReport | None
    leaked_rows: int
    """Validation rows whose prompt is in the training file, too: what they measure is memory."""
    default_system: str | None
    """What the chat template says as the system in rows that have no system message."""
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Ready for json.dumps."""
        return {
            **asdict(self),
            "training": _file_as_json(self.training),
            "validation": None if self.validation is None else _file_as_json(self.validation),
            "findings": [{**asdict(finding), "lines": list(finding.lines)} for finding in self.findings],
        }


def _file_as_json(report: FileReport) -> dict[str, Any]:
    buckets = [{"up_to": tokens, "sequences": sequences} for tokens, sequences in report.histogram]
    return {**asdict(report), "truncated_share": round(report.truncated_share, 6), "histogram": buckets}

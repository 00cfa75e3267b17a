"""A job's files: what they hold is reported, and what cannot be trained on is refused with its line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_trainer.data_report import DataReport
from brie_trainer.rows import Method
from brie_trainer.validation import check_files

SEED = Path("/work/shared/data")


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


def chat(question: str, answer: str, system: str | None = None) -> dict[str, Any]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def written(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class Checker:
    """Checks rows as a job would."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer

    def __call__(
        self,
        training: Sequence[Any],
        validation: Sequence[Any] | None = None,
        *,
        method: Method = "supervised",
        max_length: int = 500,
        min_examples: int = 1,
    ) -> DataReport:
        held_out = None if validation is None else written(self.folder / "validation.jsonl", validation)
        file = written(self.folder / "training.jsonl", training)
        return check_files(file, held_out, self.tokenizer, method, max_length, min_examples)


@pytest.fixture
def check(tmp_path: Path, tokenizer: Tokenizer) -> Checker:
    return Checker(tmp_path, tokenizer)


def codes(report: DataReport) -> set[str]:
    return {finding.code for finding in report.findings}


def test_good_rows_have_nothing_to_be_told(check: Checker) -> None:
    report = check([chat(f"What is {n} and {n}?", f"It is {2 * n}.") for n in range(12)])
    assert report.findings == ()
    assert (report.training.rows, report.training.examples, report.training.unique_prompts) == (12, 12, 12)
    assert json.loads(json.dumps(report.as_json()))["training"]["rows"] == 12

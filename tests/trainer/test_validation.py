"""A job's files: what they hold is reported, and what cannot be trained on is refused with its line."""

import gzip
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brie_core.errors import InvalidDataset
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_trainer.data.report import DataReport
from brie_trainer.data.rows import Method
from brie_trainer.data.system_prompt import default_system
from brie_trainer.data.validation import check_files
from chat_families import FAMILIES


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A small one, with a template that wants the roles to alternate."""
    return Tokenizer(FAMILIES["gemma3"].write(tmp_path_factory.mktemp("gemma") / "gemma3"))


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


def test_what_both_files_hold_is_counted(check: Checker, tokenizer: Tokenizer) -> None:
    training = [chat("a", "b"), chat("a", "b"), chat("a", "c and more of it", system="Be brief.")]
    report = check(training, [chat("x", "y")])
    ids = [tokenizer.encode(tokenizer.render(row["messages"], add_generation_prompt=False)) for row in training]
    lengths = [len(each) - 1 for each in ids]  # without the line's end behind the last stop token
    assert report.training.tokens == sum(lengths)
    assert report.training.longest == max(lengths)
    assert report.training.percentiles["99"] == max(lengths)
    assert sum(sequences for _, sequences in report.training.histogram) == 3
    assert report.training.trained_tokens == 2 + 2 + len(tokenizer.encode("c and more of it")) + 1
    assert (report.training.duplicate_rows, report.training.unique_prompts) == (1, 2)
    assert (report.training.rows_with_system, report.leaked_rows) == (1, 0)
    assert report.validation is not None
    assert report.validation.rows == 1


def test_few_examples_are_a_warning_and_a_floor_is_an_error(check: Checker) -> None:
    rows = [chat(f"q{n}", "an answer of some words") for n in range(3)]
    assert codes(check(rows)) == {"few_examples"}
    with pytest.raises(InvalidDataset, match=r"Training file has 3 example\(s\), but must have at least 10") as caught:
        check(rows, min_examples=10)
    assert (caught.value.code, caught.value.param) == ("invalid_n_examples", "training_file")


def test_one_example_is_enough_to_begin(check: Checker) -> None:
    report = check([chat("q", "an answer of some words")])
    assert (report.training.examples, codes(report)) == (1, {"few_examples"})


def test_repeated_rows_and_prompts_are_told_with_their_lines(check: Checker) -> None:
    rows = [chat(f"q{n % 11}", "an answer of some words") for n in range(13)] + [chat("q3", "another one, of words")]
    report = check(rows)
    found = {finding.code: finding for finding in report.findings}
    assert (found["duplicates"].level, found["duplicates"].lines) == ("warn", (12, 13))
    assert "14 rows have 11 different prompts" in found["repeated_prompts"].message
    assert (report.training.duplicate_rows, report.training.unique_prompts) == (2, 11)


def test_prompts_in_both_files_are_told_with_the_validation_files_lines(check: Checker) -> None:
    training = [chat(f"q{n}", "an answer of some words") for n in range(12)]
    report = check(training, [chat("new", "an answer of words"), chat("q7", "another answer"), chat("q9", "and one")])
    (found,) = [finding for finding in report.findings if finding.code == "leaked_prompts"]
    assert (report.leaked_rows, found.level, found.lines) == (2, "warn", (2, 3))


def test_what_is_cut_off_is_counted_in_tokens_and_rows(check: Checker) -> None:
    rows = [chat(f"q{n}", "word " * (10 if n else 400)) for n in range(12)]
    whole, cut = check(rows, max_length=8192), check(rows, max_length=100)
    assert (whole.training.truncated_tokens, codes(whole)) == (0, set())
    assert cut.training.truncated_tokens == whole.training.longest - 100
    assert (cut.training.truncated_rows, cut.training.dropped_rows, cut.training.examples) == (1, 0, 12)
    assert cut.training.trained_tokens == whole.training.trained_tokens - cut.training.truncated_tokens
    (found,) = [finding for finding in cut.findings if finding.code == "truncated"]
    assert (found.level, found.lines) == ("warn", (1,))
    assert f"{cut.training.truncated_share:.1%}" in found.message


def test_a_row_whose_answer_begins_beyond_the_maximum_is_left_out_and_told(check: Checker) -> None:
    rows = [chat("word " * 200 if n == 4 else f"q{n}", "an answer of some words") for n in range(12)]
    report = check(rows, max_length=100)
    assert (report.training.rows, report.training.examples, report.training.dropped_rows) == (12, 11, 1)
    assert next(finding.lines for finding in report.findings if finding.code == "dropped") == (5,)


def test_rows_that_are_all_too_long_are_refused(check: Checker) -> None:
    with pytest.raises(InvalidDataset, match="no answer begins within 20 tokens: raise max_length") as caught:
        check([chat("word " * 100, "x")] * 3, max_length=20)
    assert caught.value.code == "invalid_training_file"


def test_rows_without_anything_to_learn_are_refused_by_line(check: Checker) -> None:
    masked = chat("q", "a")
    masked["messages"][1]["weight"] = 0
    with pytest.raises(InvalidDataset, match="Line 2 of the training file has no assistant message to learn from"):
        check([chat("q", "a"), masked])


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_validation_files_fault_is_told_as_its_own(method: Method, check: Checker) -> None:
    pair = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    with pytest.raises(InvalidDataset, match="Line 2 of the validation file") as caught:
        check([pair], [pair, {"prompt": "q"}], method=method)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_equal_answers_are_left_out_and_nothing_else_is_refused(check: Checker) -> None:
    pairs = [
        {"prompt": [{"role": "user", "content": f"q{n}"}], "chosen": "so it is", "rejected": "so it is" if n else "no"}
        for n in range(3)
    ]
    report = check(pairs, method="dpo")
    assert (report.training.rows, report.training.examples, report.training.equal_pairs) == (3, 1, 2)
    assert next(finding.lines for finding in report.findings if finding.code == "equal_pairs") == (2, 3)
    with pytest.raises(InvalidDataset, match="every pair has two equal answers"):
        check(pairs[1:], method="dpo")


def test_ratings_that_all_say_the_same_are_a_warning(check: Checker) -> None:
    ratings = [chat(f"q{n}", "an answer of some words") | {"label": True} for n in range(12)]
    assert codes(check(ratings, method="kto")) == {"one_sided"}
    ratings[3]["label"] = False
    report = check(ratings, method="kto")
    assert (report.training.desirable, codes(report)) == (11, set())


def test_a_preference_is_two_ratings_for_kto(check: Checker) -> None:
    pairs = [
        {"prompt": [{"role": "user", "content": f"q{n}"}], "chosen": "so it is", "rejected": "no"} for n in range(6)
    ]
    report = check(pairs, method="kto")
    assert (report.training.rows, report.training.examples, report.training.desirable) == (12, 12, 6)


def test_text_rows_are_said_to_be_no_chat(check: Checker) -> None:
    rows = [{"prompt": f"Once {n}", "completion": " upon a time, and so on"} for n in range(12)]
    assert codes(check(rows)) == {"plain_text"}


def test_some_rows_with_a_system_message_and_answers_of_a_word_are_told(check: Checker) -> None:
    rows = [chat(f"q{n}", "an answer of some words", "Be brief." if n < 4 else None) for n in range(12)]
    rows[5] = chat("q5", "Yes")
    report = check(rows)
    assert codes(report) == {"mixed_system", "short_answers"}
    assert report.training.short_answers == 1
    assert next(finding.lines for finding in report.findings if finding.code == "short_answers") == (6,)


def test_a_template_that_refuses_a_row_is_told_with_its_line(tmp_path: Path, gemma: Tokenizer) -> None:
    question, answer = chat("q", "a")["messages"]
    file = written(tmp_path / "rows.jsonl", [chat("q", "a"), {"messages": [question, question, answer]}])
    with pytest.raises(InvalidDataset, match=r"Line 2 of the training file cannot be trained on: .* must alternate"):
        check_files(file, None, gemma, "supervised", 500)


def test_a_template_that_rewrites_earlier_answers_is_told(tmp_path: Path) -> None:
    tokenizer = Tokenizer(FAMILIES["qwen3"].write(tmp_path / "qwen3"))
    long = {"messages": chat("q", "a")["messages"] * 3}
    report = check_files(written(tmp_path / "rows.jsonl", [long]), None, tokenizer, "supervised", 500)
    assert (report.training.rows, report.training.examples) == (1, 3)
    assert "split" in codes(report)


def test_a_large_file_is_checked_in_bounded_memory(tmp_path: Path, gemma: Tokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("w") as stream:
        for n in range(3000):
            stream.write(json.dumps(chat(f"q{n}", "word " * 40)) + "\n")
    tracemalloc.start()
    try:
        report = check_files(file, None, gemma, "supervised", 4096)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert report.training.rows == 3000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "has no rows"),
        (b"\n \r\n\n", "has no rows"),
        (json.dumps(chat("q", "a")).encode("utf-16"), "line 1 shows that the file is UTF-16"),
        (gzip.compress(bytes(2**24)), "line 1 shows that the file is compressed with gzip"),
        (bytes(range(256)), "line 1 is not"),
        (b'{"messages": "' + b"x" * 9 * 2**20 + b'"}', "line 1 is longer than 8 MiB"),
        (b"\r\n".join([json.dumps(chat("q", "a")).encode()] * 6 + [b"{"]), "line 7 is not valid JSON"),
        (b'{"messages": ' + b"[" * 100_000, "line 1 is nested too deeply"),
    ],
    ids=["empty", "blank lines", "UTF-16", "a gzip bomb", "binary", "a long line", "line 7 of CRLF", "deep"],
)
def test_files_that_are_no_rows_end_with_a_line_and_no_failure(
    data: bytes, said: str, tmp_path: Path, gemma: Tokenizer
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(data)
    with pytest.raises(InvalidDataset, match=said) as caught:
        check_files(file, None, gemma, "supervised", 500)
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")


def test_crlf_and_a_mark_at_the_beginning_change_nothing(tmp_path: Path, gemma: Tokenizer) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [json.dumps(chat(f"q{n}", "one two three")).encode() for n in range(12)]
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    assert check_files(file, None, gemma, "supervised", 500).findings == ()


def test_the_templates_own_system_message_is_told(check: Checker, tmp_path: Path, gemma: Tokenizer) -> None:
    rows = [chat(f"q{n}", "an answer of some words") for n in range(12)]
    assert check(rows).default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    families = {name: Tokenizer(family.write(tmp_path / name)) for name, family in FAMILIES.items()}
    told = {name: default_system(tokenizer) for name, tokenizer in families.items()}
    assert told == dict.fromkeys(FAMILIES, None) | {"qwen2.5": "You are Qwen."}

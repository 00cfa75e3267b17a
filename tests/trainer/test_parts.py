"""The trainer's small parts: automatic numbers, event lines, checkpoints on disk."""

from pathlib import Path

import pytest

from brie_trainer.event_log import read_lines
from brie_trainer.training.hyperparameters import auto_epochs, auto_learning_rate, choose
from trainer_jobs import spec_of

CONFIG = {"model_type": "llama", "hidden_size": 576, "max_position_embeddings": 2048}


def test_the_learning_rate_is_that_of_the_published_fit() -> None:
    assert auto_learning_rate("qwen2", 896) == pytest.approx(5.3e-4, rel=0.01)
    assert auto_learning_rate("llama", 2048) == pytest.approx(4.9e-4, rel=0.01)


@pytest.mark.parametrize("num_examples", [1, 2, 11, 60, 499, 500, 5000])
def test_automatic_numbers_are_always_usable(num_examples: int) -> None:
    chosen = choose(spec_of(), num_examples=num_examples, longest=99, config=CONFIG)
    assert 1 <= chosen.batch_size <= num_examples
    assert 1 <= chosen.n_epochs <= 10
    assert chosen.max_length == 99


def test_few_rows_are_passed_more_often_than_many() -> None:
    assert auto_epochs(12, 2) > auto_epochs(200, 4) >= auto_epochs(5000, 8) == 1


def test_what_is_given_is_kept() -> None:
    given = spec_of(n_epochs=3, batch_size=2, learning_rate_multiplier=0.5, rank=8, alpha=8, max_length=50)
    chosen = choose(given, num_examples=60, longest=99, config=CONFIG)
    assert (chosen.n_epochs, chosen.batch_size, chosen.rank, chosen.alpha, chosen.max_length) == (3, 2, 8, 8, 50)
    assert chosen.learning_rate == pytest.approx(auto_learning_rate("llama", 576) / 2)


def test_only_whole_lines_are_read_and_reading_goes_on_behind_them(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert read_lines(file, 0) == []
    file.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    first = read_lines(file, 0)
    assert [line.event for line in first] == [{"a": 1}, {"a": 2}]
    file.write_text(file.read_text() + ": 3}\n")
    assert [line.event for line in read_lines(file, first[-1].end)] == [{"a": 3}]

"""The result file: OpenAI's columns where OpenAI has them, and every figure of the history in its place."""

import csv
import io

from brie_trainer.results import step_metrics

HISTORY = [
    {"step": 0, "total_steps": 2, "valid_loss": 4.5, "valid_mean_token_accuracy": 0.1, "valid_reward_margin": 0.0},
    {"step": 1, "train_loss": 4.25, "train_mean_token_accuracy": 0.125, "learning_rate": 1e-05, "grad_norm": 2.5},
    {"step": 2, "train_loss": 9.0, "epoch": 0.5},
    {"step": 2, "train_loss": 3.0, "epoch": 1.0, "tokens_per_second": 310.5, "train_reward_margin": -0.25},
    {"step": 2, "valid_loss": 3.5},
]


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(step_metrics(HISTORY).decode())))


def test_openais_five_columns_stand_first_as_openai_names_them() -> None:
    header = step_metrics([]).decode().splitlines()[0].split(",")
    assert header[:5] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert len(set(header)) == len(header) > 5


def test_every_figure_stands_in_its_column() -> None:
    assert [row["step"] for row in rows()] == ["0", "1", "2"]
    assert rows()[1]["train_accuracy"] == "0.125"
    assert {float(row["learning_rate"]) for row in rows() if row["learning_rate"]} == {1e-05}
    known = {name for record in HISTORY for name in record} - {"total_steps", "train_mean_token_accuracy"}
    assert known < set(rows()[0])


def test_a_step_that_was_run_again_stands_once_with_its_last_figures_and_its_validation() -> None:
    last = rows()[-1]
    assert (last["train_loss"], last["epoch"], last["valid_loss"]) == ("3.0", "1.0", "3.5")
    assert last["train_reward_margin"] == "-0.25" and last["grad_norm"] == ""


def test_lines_end_plainly() -> None:
    assert b"\r" not in step_metrics(HISTORY) and step_metrics(HISTORY).endswith(b"\n")

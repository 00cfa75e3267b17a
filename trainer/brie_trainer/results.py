"""The result file of a job, step_metrics.csv: OpenAI's columns, then Brie's. Pure; it knows no job and no disk."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

OPENAIS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
BRIES = (
    "epoch",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "train_reward_margin",
    "train_reward_accuracy",
    "valid_reward_margin",
    "valid_reward_accuracy",
)
_NAMES = {"train_accuracy": "train_mean_token_accuracy"}
"""What a column is called in a run's history, where that differs."""


def step_metrics(history: Sequence[Mapping[str, Any]]) -> bytes:
    """One row a step, in ascending order; what a step did not measure is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*OPENAIS, *BRIES])
    for record in merged(history):
        writer.writerow([record.get(_NAMES.get(column, column)) for column in (*OPENAIS, *BRIES)])
    return text.getvalue().encode()


def merged(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All that is known of each step; one that was run again after a crash stands once, with its last figures."""
    steps: dict[int, dict[str, Any]] = {}
    for record in history:
        steps.setdefault(record["step"], {}).update(record)
    return [steps[step] for step in sorted(steps)]

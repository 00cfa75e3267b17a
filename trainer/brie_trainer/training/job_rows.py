"""A job's data, read by its method and tokenised. It knows the job's files, no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_core.errors import InvalidDataset
from brie_core.text.tokenizer import Tokenizer
from brie_trainer.data.dataset import FileParam, read_conversations, read_preferences, read_ratings
from brie_trainer.data.examples import Example, Pair, Rated, TokenCounts
from brie_trainer.data.labels import build_examples, build_pairs, build_rated

Item = Example | Pair | Rated
"""What one unit of training is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The job's data, ready to train on."""

    training: Sequence[Item]
    validation: Sequence[Item]
    counts: TokenCounts


def read_rows(job: Mapping[str, Any], tokenizer: Tokenizer, limit: int) -> Rows:
    """The data that job.json names, cut to `limit` tokens; raises InvalidDataset."""
    training, counts = _items(job, "training_file", tokenizer, limit)
    validation = _items(job, "validation_file", tokenizer, limit)[0] if job["validation_file"] else []
    return Rows(training=training, validation=validation, counts=counts)


def _items(
    job: Mapping[str, Any], param: FileParam, tokenizer: Tokenizer, limit: int
) -> tuple[Sequence[Item], TokenCounts]:
    file = Path(job[param])
    items: Sequence[Item]
    match job["spec"]["method"]:
        case "dpo":
            items, counts = build_pairs(read_preferences(file, param), tokenizer, limit)
        case "kto":
            items, counts = build_rated(read_ratings(file, param), tokenizer, limit)
        case _:
            items, counts = build_examples(read_conversations(file, param), tokenizer, limit)
    if not items:
        raise InvalidDataset(
            f"No example of the {param.replace('_', ' ')} has an assistant token within {limit} tokens: "
            "raise max_length.",
            param=param,
            code=f"invalid_{param}",
        )
    return items, counts

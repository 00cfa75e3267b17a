"""Rows to token ids and labels: only what is answered is learnt, each stop token exactly once.

It knows the tokenizer and its chat template, and no framework. What the trainer sees before an answer is, token by
token, what the server will give the model there.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from brie_core.errors import InvalidDataset, InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_trainer.data.examples import IGNORED, Example, Pair, Rated, TokenCounts
from brie_trainer.data.rows import FileParam, Learnable, Preference, Rating, Row
from brie_trainer.data.tokenising import tokenise, tokenise_answer

__all__ = [
    "IGNORED",
    "Example",
    "Pair",
    "Rated",
    "TokenCounts",
    "build_examples",
    "build_pairs",
    "build_rated",
    "check_renders",
    "made_of",
    "pair_of",
    "rated_of",
    "tokenise",
]

_Row = TypeVar("_Row")
_Made = TypeVar("_Made", Example, Pair, Rated)


def build_examples(
    rows: Iterable[Learnable], tokenizer: Tokenizer, max_length: int
) -> tuple[list[Example], TokenCounts]:
    """Tokenise every row, cut to `max_length` tokens; examples with nothing left to learn are dropped and counted."""
    return _build(rows, lambda row: tokenise(row, tokenizer, max_length), max_length)


def build_pairs(rows: Iterable[Preference], tokenizer: Tokenizer, max_length: int) -> tuple[list[Pair], TokenCounts]:
    """As `build_examples`, but answers are cut and never a prompt.

    A pair whose prompt leaves no room is dropped, as is one whose answers are the same.
    """
    return _build(rows, lambda row: [pair_of(row, tokenizer)], max_length)


def build_rated(rows: Iterable[Rating], tokenizer: Tokenizer, max_length: int) -> tuple[list[Rated], TokenCounts]:
    """As `build_pairs`, for answers that stand alone."""
    return _build(rows, lambda row: [rated_of(row, tokenizer)], max_length)


def pair_of(row: Preference, tokenizer: Tokenizer) -> Pair:
    """Both answers whole, each behind the same prompt."""
    return Pair(tokenise_answer(row.chosen, tokenizer), tokenise_answer(row.rejected, tokenizer))


def rated_of(row: Rating, tokenizer: Tokenizer) -> Rated:
    """The answer whole."""
    return Rated(tokenise_answer(row.answered, tokenizer), row.desirable)


def made_of(row: Row, tokenizer: Tokenizer, max_length: int) -> Sequence[Example | Pair | Rated]:
    """What a row becomes, before it is cut; raises InvalidRequest where the template refuses it."""
    if isinstance(row, Preference):
        return [pair_of(row, tokenizer)]
    return [rated_of(row, tokenizer)] if isinstance(row, Rating) else tokenise(row, tokenizer, max_length)


def check_renders(rows: Sequence[Learnable], tokenizer: Tokenizer, param: FileParam) -> None:
    """Tokenise every row; raises InvalidDataset with the number of the first row that cannot be."""
    for number, row in enumerate(rows, start=1):
        try:
            tokenise(row, tokenizer)
        except InvalidRequest as error:
            message = f"Row {number} of the {param.replace('_', ' ')} cannot be trained on: {error.message}"
            raise InvalidDataset(message, param=param, code=f"invalid_{param}") from error


def _build(
    rows: Iterable[_Row], tokenised: Callable[[_Row], Sequence[_Made]], max_length: int
) -> tuple[list[_Made], TokenCounts]:
    counts = TokenCounts()
    kept = []
    for whole in (made for row in rows for made in tokenised(row)):
        made = whole.truncated(max_length)
        lengths = [len(example.input_ids) for example in made.sequences]
        lost = sum(len(example.input_ids) for example in whole.sequences) - sum(lengths)
        counts.truncated += lost
        if not made.num_trained:
            counts.dropped += 1
            continue
        counts.examples += 1
        counts.tokens += sum(lengths)
        counts.trained += made.num_trained
        counts.longest = max(counts.longest, *lengths)
        counts.cut += lost > 0
        kept.append(made)
    return kept, counts

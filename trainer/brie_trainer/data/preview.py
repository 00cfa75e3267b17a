"""Rows as the model will see them, with what is learnt marked: as JSON for pages, in colours for terminals.

It knows tokens and how they are spelled, and counts nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rich.text import Text

from brie_core.text.tokenizer import Tokenizer
from brie_trainer.data.dataset import FileParam, Method, stream_dataset
from brie_trainer.data.examples import IGNORED, Example, Pair, Rated
from brie_trainer.data.labels import made_of

MOST_TOKENS = 2048
"""Of one sequence; the rest is only counted."""
_END = 300
"""Characters of a long segment that a terminal is shown of each of its ends."""
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
"""What a terminal would obey, as pictures of it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text that is learnt, or is not. Special tokens are spelled out."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSequence:
    """What the model is run over."""

    line: int
    name: str
    """example, chosen, rejected, desirable or undesirable."""
    tokens: int
    """Of the whole sequence."""
    cut: int
    """Of those, how many lie beyond the maximum length and are not trained on."""
    segments: tuple[Segment, ...]


def show(
    made: Iterable[tuple[int, Sequence[Example | Pair | Rated]]], tokenizer: Tokenizer, max_length: int
) -> list[ShownSequence]:
    """Whole rows, each with its line's number, as they look once they are cut to `max_length` tokens."""
    return [
        _shown(line, name, example, tokenizer, max_length)
        for line, wholes in made
        for whole in wholes
        for name, example in _named(whole)
    ]


def show_file(  # noqa: PLR0913, PLR0917  # a file, how it is read, and how much of it is shown
    file: Path, param: FileParam, method: Method, tokenizer: Tokenizer, max_length: int, rows: int
) -> list[ShownSequence]:
    """The first rows of a file that was checked; raises InvalidDataset where it was not, and is at fault there."""
    first = islice(stream_dataset(file, param, method), rows)
    return show(((line, made_of(row, tokenizer, max_length)) for line, row in first), tokenizer, max_length)


def as_json(shown: Iterable[ShownSequence]) -> list[dict[str, Any]]:
    """Ready for json.dumps."""
    return [asdict(sequence) for sequence in shown]


def as_text(sequence: ShownSequence, *, in_colours: bool) -> Text:
    """For a terminal; where there are no colours, what is learnt stands between ⟦ and ⟧."""
    text = Text(f"line {sequence.line}, {sequence.name}: {sequence.tokens} tokens", style="bold")
    text.append(f", {sequence.cut} of them cut off\n" if sequence.cut else "\n", style="bold")
    for segment in sequence.segments:
        shown = _abbreviated(segment.text.translate(_VISIBLE))
        shown = shown if in_colours or not segment.trained else f"⟦{shown}⟧"
        text.append(shown, style="bold green" if segment.trained else "dim")
    return text.append("\n")


def _abbreviated(text: str) -> str:
    left_out = len(text) - 2 * _END
    return f"{text[:_END]} … {left_out} characters … {text[-_END:]}" if left_out > _END else text


def _named(made: Example | Pair | Rated) -> list[tuple[str, Example]]:
    if isinstance(made, Pair):
        return [("chosen", made.chosen), ("rejected", made.rejected)]
    if isinstance(made, Rated):
        return [("desirable" if made.desirable else "undesirable", made.example)]
    return [("example", made)]


def _shown(line: int, name: str, whole: Example, tokenizer: Tokenizer, max_length: int) -> ShownSequence:
    shown = whole.truncated(min(max_length, MOST_TOKENS))
    pairs = zip(shown.input_ids, (label != IGNORED for label in shown.labels), strict=True)
    segments = [
        Segment(_spelled([token for token, _ in run], tokenizer), trained)
        for trained, run in groupby(pairs, key=lambda pair: pair[1])
    ]
    tokens = len(whole.input_ids)
    return ShownSequence(line=line, name=name, tokens=tokens, cut=max(0, tokens - max_length), segments=tuple(segments))


def _spelled(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return b"".join(map(tokenizer.piece, ids)).decode(errors="replace")

"""Which texts a file is judged on, and which its importance matrix is made from. It knows rows and tokens, no model.

No text is in both: a matrix made from the very text it is judged on flatters itself. What decides is a text's own hash,
so that the same rows are split the same way every time.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from brie_convert.prose import PROSE
from brie_core.errors import BrieError
from brie_core.text.sharegpt import messages_of
from brie_core.text.tokenizer import Tokenizer

EVALUATION_TOKENS, CALIBRATION_TOKENS = 512, 4096
_WINDOW = 256
_SHORTEST = 8
_MOST_ROWS = 20_000
_FEWEST_TEXTS = 8

Window = tuple[int, ...]
"""Token ids that stand in one context, from its beginning."""


@dataclass(frozen=True, slots=True)
class Material:
    """Tokens for the judgement and for the matrix."""

    evaluation: tuple[Window, ...]
    calibration: tuple[Window, ...]
    """Empty for no importance matrix."""
    own_texts: bool
    """Whether the evaluation is over prose of ours, for want of enough texts of the model's own kind."""


def read_texts(rows: Path | None, texts: Sequence[str], tokenizer: Tokenizer) -> tuple[str, ...]:
    """All that was given, each once: `texts` as they are, and the rows of a JSON Lines file as the model saw them."""
    from_rows = _rendered(rows, tokenizer) if rows else ()
    return tuple(dict.fromkeys(text for text in (*texts, *from_rows) if text.strip()))


def texts_digest(texts: Sequence[str]) -> str | None:
    """sha256 over the texts in order; None without texts."""
    if not texts:
        return None
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def divide(texts: Sequence[str], tokenizer: Tokenizer, bos: int | None, context_length: int) -> Material:
    """A quarter of the texts, and no more than needed, for the judgement; others for the matrix.

    `bos` stands before each text that does not begin with it already; None for models that want none.
    """
    cut = _Cutter(tokenizer, bos, min(_WINDOW, context_length))
    if len(texts) < _FEWEST_TEXTS:
        return Material(cut.windows(PROSE, EVALUATION_TOKENS), cut.windows(texts, CALIBRATION_TOKENS), own_texts=True)
    shuffled = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
    judged, others = shuffled[: len(shuffled) // 4], shuffled[len(shuffled) // 4 :]
    evaluation, calibration = cut.windows(judged, EVALUATION_TOKENS), cut.windows(others, CALIBRATION_TOKENS)
    return Material(evaluation, calibration, own_texts=False)


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Texts to windows."""

    tokenizer: Tokenizer
    bos: int | None
    length: int

    def windows(self, texts: Iterable[str], tokens: int) -> tuple[Window, ...]:
        """The first windows that hold `tokens`; the last is cut there."""
        taken: list[Window] = []
        for window in self._all(texts):
            part = window[: tokens - sum(map(len, taken))]
            if len(part) < _SHORTEST:
                break
            taken.append(part)
        return tuple(taken)

    def _all(self, texts: Iterable[str]) -> Iterator[Window]:
        for text in texts:
            ids = self.tokenizer.encode(text)
            if self.bos is not None and ids[:1] != [self.bos]:  # a template writes its own
                ids = [self.bos, *ids]
            for start in range(0, len(ids), self.length):
                part = tuple(ids[start : start + self.length])
                if len(part) >= _SHORTEST:
                    yield part


def _rendered(rows: Path, tokenizer: Tokenizer) -> Iterator[str]:
    with rows.open(encoding="utf-8") as lines:
        for line in islice(lines, _MOST_ROWS):
            yield from _row_texts(line, tokenizer)


def _row_texts(line: str, tokenizer: Tokenizer) -> list[str]:
    """What the model read of one row; a row that cannot be rendered calibrates nothing and is passed over."""
    try:
        row = json.loads(line)
        said = _said(row)
        rendered = said if isinstance(said, str) else _render(said, row, tokenizer)
    except (ValueError, AttributeError, TypeError, KeyError, BrieError):
        return []
    return [rendered]


def _render(messages: list[Any], row: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    if not messages:
        raise ValueError("nothing is said")
    return tokenizer.render(messages, add_generation_prompt=False, tools=row.get("tools"))


def _said(row: Mapping[str, Any]) -> str | list[Any]:
    """A text, or the messages of a conversation; of two answers, the preferred. An answer rated bad is none to keep."""
    if row.get("label") is False:
        raise ValueError("the answer was rated bad")
    if "conversations" in row:
        return messages_of(row["conversations"])
    if isinstance(row.get("text"), str):
        return str(row["text"])
    asked = row["input"]["messages"] if "input" in row else row.get("messages") or row.get("prompt") or []
    answer = row.get("preferred_output") or row.get("chosen") or row.get("completion") or []
    if isinstance(asked, str):
        return f"{asked}{answer or ''}"  # strings are trained as they are, without a template
    return [*asked, *([{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer)]

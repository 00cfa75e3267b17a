"""Counts what a file's rows become, one row at a time, in 28 bytes a row. It knows tokens, not texts and no file."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from brie_trainer.data.examples import Example, Pair, Rated
from brie_trainer.data.report import FileReport

_SHOWN = 5
_BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_PERCENTILES = (50, 90, 95, 99)


class Survey:
    """Of one file, at one maximum length."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.rows = self.examples = self.tokens = self.trained = self.beyond = 0
        self.cut_rows = self.dropped_rows = self.equal_pairs = self.short_answers = self.with_system = 0
        self.split_rows = self.ratings = self.desirable = 0
        self.first_lines: dict[str, list[int]] = {}
        self._lengths, self._lines = array("I"), array("I")
        self._contents, self._prompts = array("Q"), array("Q")

    def add(
        self, line: int, made: Sequence[Example | Pair | Rated], *, has_system: bool = False, has_prompt: bool = True
    ) -> None:
        """One row, as what it becomes, whole."""
        self.rows += 1
        self.with_system += has_system
        self.split_rows += len(made) > 1
        first = made[0].sequences[0]
        self._lines.append(line)
        self._contents.append(_hash([token for each in made for seq in each.sequences for token in seq.input_ids]))
        self._prompts.append(_hash(first.input_ids[: first.num_prompt]) if has_prompt else 0)
        self._note("short_answers", line, _is_short(made[0]))
        self._measure(line, made)

    def report(self) -> FileReport:
        """So far."""
        lengths = np.frombuffer(self._lengths, dtype=np.uint32) if self._lengths else np.zeros(1, np.uint32)
        return FileReport(
            rows=self.rows,
            examples=self.examples,
            tokens=self.tokens,
            trained_tokens=self.trained,
            truncated_tokens=self.beyond,
            truncated_rows=self.cut_rows,
            dropped_rows=self.dropped_rows,
            equal_pairs=self.equal_pairs,
            longest=int(lengths.max()),
            percentiles={str(share): int(np.percentile(lengths, share, method="higher")) for share in _PERCENTILES},
            histogram=_histogram(lengths),
            duplicate_rows=len(self.repeated_lines()),
            unique_prompts=len(np.unique(self.prompts)),
            short_answers=self.short_answers,
            rows_with_system=self.with_system,
            desirable=self.desirable if self.ratings else None,
        )

    @property
    def prompts(self) -> npt.NDArray[np.uint64]:
        """A hash of each row's prompt, in order; 0 for one without."""
        return np.array(self._prompts, dtype=np.uint64)

    def repeated_lines(self) -> list[int]:
        """The lines that repeat an earlier one, in order."""
        contents = np.array(self._contents, dtype=np.uint64)
        order = np.argsort(contents, kind="stable")
        repeats = order[1:][contents[order][1:] == contents[order][:-1]]
        return sorted(np.array(self._lines)[repeats].tolist())

    def lines_with(self, prompts: npt.NDArray[np.uint64]) -> list[int]:
        """The lines whose prompt is one of these."""
        known = np.isin(self.prompts, prompts) & (self.prompts != 0)
        found: list[int] = np.array(self._lines)[known].tolist()
        return found

    def _measure(self, line: int, made: Sequence[Example | Pair | Rated]) -> None:
        beyond = num_kept = num_left_out = 0
        for whole in made:
            kept = whole.truncated(self.max_length)
            lengths = [len(example.input_ids) for example in whole.sequences]
            self._lengths.extend(filter(None, lengths))
            self.tokens += sum(lengths)
            beyond += sum(max(0, length - self.max_length) for length in lengths)
            if isinstance(whole, Pair):
                self._note("equal_pairs", line, not whole.num_trained)
            if isinstance(whole, Rated):
                self.ratings += 1
                self.desirable += whole.desirable
            self.trained += kept.num_trained
            num_kept += kept.num_trained > 0
            num_left_out += not kept.num_trained and not (isinstance(whole, Pair) and not whole.num_trained)
        self.examples += num_kept
        self.beyond += beyond
        self._note("cut_rows", line, beyond > 0)
        self._note("dropped_rows", line, num_left_out > 0)

    def _note(self, name: str, line: int, is_true: bool) -> None:  # noqa: FBT001  # a fact, not an option
        if is_true:
            setattr(self, name, getattr(self, name) + 1)
            lines = self.first_lines.setdefault(name, [])
            if len(lines) < _SHOWN and line not in lines:
                lines.append(line)


def _is_short(made: Example | Pair | Rated) -> bool:
    return any(example.num_trained <= 2 for example in made.sequences)


def _hash(ids: Sequence[int]) -> int:
    """Never 0, which stands for nothing."""
    return int.from_bytes(blake2b(array("I", ids).tobytes(), digest_size=8).digest()) or 1


def _histogram(lengths: npt.NDArray[np.uint32]) -> list[tuple[int, int]]:
    """Up to the bucket of the longest; that one ends where the longest does, if it is longer than all."""
    longest = int(lengths.max())
    bounds = [bound for bound in _BUCKETS if bound < longest]
    bounds.append(next((bound for bound in _BUCKETS if bound >= longest), longest))
    return [(high, int(((lengths > low) & (lengths <= high)).sum())) for low, high in pairwise([0, *bounds])]

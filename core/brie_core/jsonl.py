"""JSON Lines with line numbers, read as a stream. It knows the form, not what a row means."""

import json
import reprlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brie_core.errors import InvalidDataset

MAX_LINE_BYTES = 8 * 2**20
_FOREIGN = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PAR1": "Parquet",
}
"""What else such a file may be, by its first bytes."""


def read_rows(file: Path, *, param: str = "file") -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its line number, from 1; blank lines are skipped. Raises InvalidDataset naming the line.

    One line is in memory at a time, and none longer than MAX_LINE_BYTES is read to its end.
    """
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1 and (found := _foreign(line)):
                raise _invalid(1, f"shows that the file is {found}: make it plain JSON Lines in UTF-8", param)
            if len(line) > MAX_LINE_BYTES:
                raise _invalid(number, f"is longer than {MAX_LINE_BYTES // 2**20} MiB", param)
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield number, _row(text, number, param)


def _foreign(line: bytes) -> str | None:
    return next((form for sign, form in _FOREIGN.items() if line.startswith(sign)), None)


def _row(text: bytes, number: int, param: str) -> dict[str, Any]:
    try:
        row = json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise _invalid(number, f"is not UTF-8 (byte {error.start})", param) from error
    except RecursionError as error:
        raise _invalid(number, "is nested too deeply", param) from error
    except ValueError as error:
        raise _invalid(number, f"is not valid JSON ({error})", param) from error
    if not isinstance(row, dict):
        raise _invalid(number, "is not a JSON object", param)
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a name that stands twice, readers keep the first or the last: so none is right."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has the name {reprlib.repr(twice)} twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _invalid(number: int, what: str, param: str) -> InvalidDataset:
    return InvalidDataset(
        f"Expected file to have JSONL format, where every line is a JSON dictionary: line {number} {what}.",
        param=param,
    )

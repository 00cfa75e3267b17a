"""JSON Lines with line numbers, read as a stream. It knows the form, not what a row means."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brie_core.errors import InvalidDataset

MAX_LINE_BYTES = 8 * 2**20


def read_rows(file: Path, *, param: str = "file") -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its line number, from 1; blank lines are skipped. Raises InvalidDataset naming the line.

    One line is in memory at a time, and none longer than MAX_LINE_BYTES is read to its end.
    """
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise _invalid(number, f"is longer than {MAX_LINE_BYTES // 2**20} MiB", param)
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                yield number, _row(text, number, param)


def _row(text: bytes, number: int, param: str) -> dict[str, Any]:
    try:
        row = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise _invalid(number, f"is not UTF-8 (byte {error.start})", param) from error
    except RecursionError as error:
        raise _invalid(number, "is nested too deeply", param) from error
    except ValueError as error:
        raise _invalid(number, f"is not valid JSON ({error})", param) from error
    if not isinstance(row, dict):
        raise _invalid(number, "is not a JSON object", param)
    return row


def _invalid(number: int, what: str, param: str) -> InvalidDataset:
    return InvalidDataset(
        f"Expected file to have JSONL format, where every line is a JSON dictionary: line {number} {what}.",
        param=param,
    )

"""JSON Lines: whatever a file really holds, the answer is its rows or one error with a line, in little memory."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from brie_core.errors import InvalidDataset
from brie_core.jsonl import MAX_LINE_BYTES, read_rows

ROW = b'{"a": "\xc3\xa9"}'


def rows(folder: Path, data: bytes) -> list[tuple[int, dict[str, object]]]:
    file = folder / "rows.jsonl"
    file.write_bytes(data)
    return list(read_rows(file))


@pytest.mark.parametrize(
    "data",
    [
        ROW + b"\n\n" + ROW,
        ROW + b"\r\n\r\n" + ROW + b"\r\n",
        b"\xef\xbb\xbf" + ROW + b"\n  \t\n" + ROW + b"\n",
    ],
    ids=["no newline at the end", "CRLF", "BOM"],
)
def test_rows_have_their_own_line_numbers(data: bytes, tmp_path: Path) -> None:
    assert rows(tmp_path, data) == [(1, {"a": "é"}), (3, {"a": "é"})]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "not valid JSON"),
        (b'{"a": 1} {"a": 2}', "Extra data"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'{"a": "\x00"}', "not valid JSON"),
        (b'{"a": NaN}', "NaN is no JSON value"),
        (b'{"a": -Infinity}', "-Infinity is no JSON value"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"a": "' + b"x" * MAX_LINE_BYTES + b'"}', "longer than 8 MiB"),
    ],
)
def test_a_faulty_seventh_line_is_named(bad: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="line 7") as caught:
        rows(tmp_path, b"\n".join([ROW] * 6 + [bad] + [ROW] * 3))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("".join(["\ufeff", '{"a": 1}\n']).encode("utf-16-le"), "UTF-16"),
        (gzip.compress(b"\n" * 2**27), "gzip"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"PAR1" + bytes(2**24), "Parquet"),
        (bytes(range(256)) * 2**12, "line 1"),
    ],
    ids=["UTF-16", "a gzip bomb", "zip", "Parquet", "binary"],
)
def test_a_file_of_another_kind_is_told_by_name(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=said):
        rows(tmp_path, data)


def test_utf_16_without_a_mark_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="line 1 is not valid JSON"):
        rows(tmp_path, '{"a": 1}\n'.encode("utf-16-le"))


def test_a_line_of_100_mb_is_refused_in_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("wb") as stream:
        stream.write(ROW + b'\n{"a": "')
        for _ in range(100):
            stream.write(b"x" * 2**20)
        stream.write(b'"}\n')
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDataset, match="line 2 is longer"):
            list(read_rows(file))
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


def test_many_rows_are_never_in_memory_together(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text((json.dumps({"a": "x" * 1000}) + "\n") * 20_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(file)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()

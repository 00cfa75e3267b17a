"""Reads the header of a GGUF file: its keys, and the names and shapes of its tensors. It knows the format, not models.

The `gguf` package's reader takes four seconds and 190 MB for a small model; this one skips the vocabulary.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_MAGIC = int.from_bytes(b"GGUF", "little")
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Far beyond any model, and near enough that a hostile header costs neither seconds nor gigabytes.
_MAX_HEADER = 128 * 2**20
_MAX_FIELDS, _MAX_TENSORS, _MAX_TEXTS, _MAX_DIMENSIONS = 2**12, 2**16, 2**20, 4
_MAX_NAME, _MAX_TEXT = 2**16, 2**24
_DEFAULT_ALIGNMENT = 32

Scalar = str | bool | int | float


class BrokenGgufFile(ValueError):
    """The bytes are not a GGUF file, or not the whole of its header."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor as the header announces it."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as in numpy; the file has it the other way round."""
    kind: int
    """ggml's number for how the values are stored."""
    offset: int = 0
    """First byte of its data, from the beginning of all data."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All but arrays and data."""

    fields: Mapping[str, Scalar]
    tensors: tuple[GgufTensor, ...]
    end: int = 0
    """Bytes of the header itself; the data begins at the next multiple of the alignment."""

    @property
    def alignment(self) -> int:
        """Of every tensor's data, in bytes."""
        value = self.fields.get("general.alignment", _DEFAULT_ALIGNMENT)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**16 or value & (value - 1):
            raise BrokenGgufFile(f"its alignment is {value!r}, which is no power of two up to 65,536")
        return value

    @property
    def data_start(self) -> int:
        """Where the data of the tensors begins, in bytes."""
        return -(-self.end // self.alignment) * self.alignment

    def text(self, key: str) -> str:
        """A field that is text; raises BrokenGgufFile."""
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise BrokenGgufFile(f"its header lacks {key}")
        return value

    def number(self, key: str) -> int:
        """A field that is a whole number; raises BrokenGgufFile."""
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BrokenGgufFile(f"its header lacks the number {key}")
        return value


def read_gguf_header(file: Path) -> GgufHeader:
    """The header of `file`; raises BrokenGgufFile, or OSError for a file that cannot be opened."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise BrokenGgufFile("it does not begin as a GGUF file does")
        length = min(os.fstat(stream.fileno()).st_size, _MAX_HEADER)
        with mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_READ) as view:
            try:
                return _header(_Cursor(view))
            except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
                raise BrokenGgufFile("its header is cut off or damaged") from error


def _header(cursor: "_Cursor") -> GgufHeader:
    magic, version, tensors, fields = (int(cursor.scalar(form)) for form in "IIQQ")
    if magic != _MAGIC or version not in _VERSIONS:
        raise BrokenGgufFile(f"it is of GGUF version {version}, of which nothing is known here")
    _check_count(fields, _MAX_FIELDS, "fields")
    _check_count(tensors, _MAX_TENSORS, "tensors")
    found = dict(_fields(cursor, fields))
    return GgufHeader(found, tuple(_tensors(cursor, tensors)), cursor.at)


def _fields(cursor: "_Cursor", count: int) -> Iterator[tuple[str, Scalar]]:
    names = set()
    for _ in range(count):
        name, kind = cursor.text(_MAX_NAME), int(cursor.scalar("I"))
        if name in names:
            raise BrokenGgufFile(f"its header has {name[:80]!r} twice")
        names.add(name)
        if kind == _ARRAY:
            cursor.skip_array()
        else:
            yield name, cursor.text(_MAX_TEXT) if kind == _STRING else cursor.scalar(_SCALARS[kind])


def _tensors(cursor: "_Cursor", count: int) -> Iterator[GgufTensor]:
    for _ in range(count):
        name, dimensions = cursor.text(_MAX_NAME), int(cursor.scalar("I"))
        _check_count(dimensions, _MAX_DIMENSIONS, f"dimensions of {name[:80]!r}")
        shape = [int(cursor.scalar("Q")) for _ in range(dimensions)]
        kind, offset = int(cursor.scalar("I")), int(cursor.scalar("Q"))
        yield GgufTensor(name, tuple(reversed(shape)), kind, offset)


def _check_count(count: int, most: int, what: str) -> None:
    if count > most:
        raise BrokenGgufFile(f"its header promises {count} {what}, where {most} are the most that are read")


class _Cursor:
    """Reads on through a header."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self.at = 0

    def scalar(self, form: str) -> bool | int | float:
        """The next number or flag."""
        (value,) = struct.unpack_from(f"<{form}", self._view, self.at)
        self.at += struct.calcsize(f"<{form}")
        found: bool | int | float = value
        return found

    def text(self, most: int) -> str:
        """The next length-prefixed text, of at most so many bytes."""
        length = int(self.scalar("Q"))
        _check_count(length, most, "bytes in one text")
        self._skip(length)
        return self._view[self.at - length : self.at].decode()

    def skip_array(self) -> None:
        """Over an array, whatever is in it."""
        inner, count = int(self.scalar("I")), int(self.scalar("Q"))
        if inner in _SCALARS:
            self._skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
        elif inner == _STRING:
            self._skip_texts(count)
        else:
            raise BrokenGgufFile(f"its header has an array of arrays, or of the unknown type {inner}")

    def _skip_texts(self, count: int) -> None:
        _check_count(count, _MAX_TEXTS, "texts in one array")
        view, at, end, length_at = self._view, self.at, len(self._view), struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length_at(view, at)[0]
            if at > end:
                raise BrokenGgufFile("its header is cut off or damaged")
        self.at = at

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._view):
            raise BrokenGgufFile("its header is cut off or damaged")

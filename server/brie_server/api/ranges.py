"""One file of the disk over HTTP, whole or in parts, so that a broken download goes on. It knows RFC 9110, no route.

The framework's `File` sends whole files only. What is here answers Range (one range; of several the whole file is the
answer that is always allowed), If-Range, If-None-Match and If-Match by a strong ETag, the file's sha256.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from litestar import Response
from litestar.response import Stream

from brie_core.errors import PreconditionFailed, RangeNotSatisfiable

_CHUNK = 2**20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Part:
    """From the byte `start` up to, not including, `stop`."""

    start: int
    stop: int


def ranged_file(path: Path, filename: str, sha256: str, headers: Mapping[str, str]) -> Response[Any]:
    """The answer to a GET with these request `headers`; raises PreconditionFailed."""
    size, etag = path.stat().st_size, f'"{sha256}"'
    told = {"etag": etag, "accept-ranges": "bytes", "content-disposition": f'attachment; filename="{filename}"'}
    if (wanted := headers.get("if-match")) and not _names(wanted, etag):
        raise PreconditionFailed(f"The file's ETag is {etag}.")
    if (known := headers.get("if-none-match")) and _names(known, etag):
        return Response(None, status_code=304, headers=told)
    try:
        part = asked_part(headers.get("range"), size) if _is_same(headers.get("if-range"), etag) else None
    except RangeNotSatisfiable as error:
        return Response(error.envelope(), status_code=error.status, headers={"content-range": f"bytes */{size}"})
    if part is None:
        return _stream(path, Part(0, size), told, 200)
    return _stream(path, part, told | {"content-range": f"bytes {part.start}-{part.stop - 1}/{size}"}, 206)


def asked_part(header: str | None, size: int) -> Part | None:
    """The one range that is asked for; None for none, several, or what is no range. Raises RangeNotSatisfiable."""
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or not any(found.groups()) or max(map(len, found.groups())) > 18:
        return None
    first, last = found.groups()
    if not first:  # the last so many bytes
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise RangeNotSatisfiable(f"The file has {size} bytes, and the range begins beyond them.")
    return Part(start, stop)


def _is_same(condition: str | None, etag: str) -> bool:
    """Whether the range is wanted: a date or a weak ETag never says for certain that it is the same file."""
    return condition is None or condition.strip() == etag


def _names(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in header.split(","))


def _stream(path: Path, part: Part, headers: dict[str, str], status: int) -> Response[Any]:
    length = {"content-length": str(part.stop - part.start)}
    return Stream(_read(path, part), status_code=status, media_type=_TYPE, headers=headers | length)


async def _read(path: Path, part: Part) -> AsyncIterator[bytes]:
    """A file that is deleted meanwhile is read to its end: it stays open."""
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(part.start)
        left = part.stop - part.start
        while left and (chunk := await file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk

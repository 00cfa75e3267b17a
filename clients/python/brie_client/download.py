"""One file over HTTP that goes on where it broke off, and is trusted by its sha256 alone. It knows no resource."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2

from brie_core.durable import sync_folder

_SILENCE_SECONDS = 60.0  # the server may be training on the same cores
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is, and what to say at the door."""

    url: str
    headers: Mapping[str, str]


def fetch(address: Address, target: Path, sha256: str, arrived: Callable[[int], None]) -> Path:
    """Bring the file to `target`, whole or not at all; one that is there already is not asked for.

    What an earlier try left beside `target` is gone on from. Raises OSError for a file that arrived damaged,
    httpx2.HTTPError where the connection broke again and again.
    """
    if is_whole(target, sha256):
        return target
    partial = target.with_name(f"{target.name}.{sha256[:8]}.partial")
    _complete(address, partial, sha256, arrived)
    partial.replace(target)
    sync_folder(target.parent)
    return target


def _complete(address: Address, partial: Path, sha256: str, arrived: Callable[[int], None]) -> None:
    """Bring `partial` to the file's end, from wherever it is; raises OSError, having removed it, if it is damaged.

    A connection that breaks is opened again, as long as bytes arrive in between; then httpx2.HTTPError is raised and
    `partial` stays for the next try.
    """
    fruitless = 0
    while True:
        before = _size(partial)
        try:
            _go_on(address, partial, sha256, arrived)
            break
        except httpx2.TransportError:
            fruitless = 0 if _size(partial) > before else fruitless + 1
            if fruitless == _TRIES:
                raise
            time.sleep(0.2 * 2**fruitless)
    if not is_whole(partial, sha256):
        partial.unlink()
        raise OSError(f"{partial.name.rpartition('.')[0]} arrived damaged: download it again")


def is_whole(file: Path, sha256: str) -> bool:
    """Whether the file is there, to the byte."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _go_on(address: Address, partial: Path, sha256: str, arrived: Callable[[int], None]) -> None:
    here = _size(partial)
    # if it is another file by now, the whole of it comes
    wanted = {"Range": f"bytes={here}-", "If-Range": f'"{sha256}"'} if here else {}
    headers = {**address.headers, **wanted, "Accept-Encoding": "identity"}
    with httpx2.stream("GET", address.url, headers=headers, timeout=_SILENCE_SECONDS) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing, or too much is here: the digest tells
        response.raise_for_status()
        continues = response.status_code == HTTPStatus.PARTIAL_CONTENT
        with partial.open("ab" if continues else "wb") as file:
            _write(response, file, arrived)


def _write(response: httpx2.Response, file: Any, arrived: Callable[[int], None]) -> None:
    try:
        for chunk in response.iter_bytes():  # as they come: pieces of one size would be lost with the line
            file.write(chunk)
            arrived(file.tell())
    finally:
        file.flush()
        os.fsync(file.fileno())


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0

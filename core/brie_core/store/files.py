"""Uploaded and produced files: a row each, and the bytes under the row's id. A user's file name is never a path."""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, delete, insert, select

from brie_core.durable import staging_folder, sync_folder
from brie_core.errors import InsufficientStorage, NotFound
from brie_core.identifiers import new_id
from brie_core.store.database import Database
from brie_core.store.tables import files


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file."""

    id: str
    filename: str
    """What the user called it; shown, never used."""
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None
    path: Path


class FileStore:
    """The files of one BRIE_HOME."""

    def __init__(self, database: Database, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._folder = home / "files"
        self._tmp = home / "tmp"
        self._clock = clock

    async def save(
        self,
        chunks: AsyncIterator[bytes],
        *,
        filename: str,
        purpose: str,
        check: Callable[[Path], None] = lambda _path: None,
        lifetime: int | None = None,
    ) -> StoredFile:
        """Store a stream of bytes; `check` sees the whole file before anyone else can and may refuse it by raising.

        The row is written last: a file that is listed is whole and on disk.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        file_id, now = new_id("file"), int(self._clock())
        with staging_folder(self._tmp, "upload") as staged:
            size, digest = await self._write(staged / file_id, chunks)
            await asyncio.to_thread(check, staged / file_id)
            (staged / file_id).rename(self._folder / file_id)
            sync_folder(self._folder)
        row = {"id": file_id, "filename": filename, "purpose": purpose, "bytes": size, "sha256": digest}
        row |= {"created_at": now, "expires_at": None if lifetime is None else now + lifetime}
        await self._insert(row)
        return self._stored(row)

    async def _insert(self, row: Mapping[str, Any]) -> None:
        """A row that was surely not written takes its bytes with it; if the commit itself broke, they stay."""
        written = False
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(files).values(row))
                written = True
        except BaseException:
            if not written:
                (self._folder / row["id"]).unlink(missing_ok=True)
            raise

    async def get(self, file_id: str) -> StoredFile:
        """One file; raises NotFound, also once it has expired."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(files).where(files.c.id == file_id))).one_or_none()
        if row is None or self._expired(row):
            raise _no_such_file(file_id)
        return self._stored(row._mapping)

    async def list(
        self, *, limit: int, after: str | None = None, purpose: str | None = None, newest_first: bool = True
    ) -> Sequence[StoredFile]:
        """A page of files, beginning behind the file `after`."""
        query = select(files).order_by(files.c.id.desc() if newest_first else files.c.id.asc())
        if after is not None:
            query = query.where(files.c.id < after if newest_first else files.c.id > after)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [self._stored(row._mapping) for row in rows if not self._expired(row)][:limit]

    async def delete(self, file_id: str) -> None:
        """Remove a file; raises NotFound. Jobs that use it have their own link to the bytes."""
        async with self._database.write() as connection:
            removed = await connection.execute(delete(files).where(files.c.id == file_id))
        if removed.rowcount == 0:
            raise _no_such_file(file_id)
        (self._folder / file_id).unlink(missing_ok=True)

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with path.open("xb") as file:  # chunks come from memory or a spooled file; the disk is local
            async for chunk in chunks:
                if shutil.disk_usage(path.parent).free < len(chunk) + _FLOOR:
                    raise InsufficientStorage(
                        "The disk is nearly full: free some space and upload again.", param="file"
                    )
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        return size, digest.hexdigest()

    def _expired(self, row: Row[Any]) -> bool:
        return row.expires_at is not None and row.expires_at <= self._clock()

    def _stored(self, row: Mapping[Any, Any]) -> StoredFile:
        return StoredFile(**row, path=self._folder / row["id"])


_FLOOR = 64 * 2**20


def _no_such_file(file_id: str) -> NotFound:
    return NotFound(f"There is no file {file_id!r}: it was never uploaded, or it was deleted.", code="file_not_found")

"""/v1/files. It knows uploads and downloads, not what is in a file, save that training data must be JSON Lines."""

import collections
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from litestar import Response, delete, get, post
from litestar.datastructures import UploadFile
from litestar.params import FromPath, FromQuery, MultipartBody, QueryParameter
from litestar.response import File

from brie_core.errors import InvalidDataset, InvalidRequest
from brie_core.jsonl import read_rows
from brie_core.store.files import StoredFile
from brie_core.wire import Deleted, Page, page_of
from brie_server.api.services import Given
from brie_server.schema.resources import LIFETIMES_S, PURPOSES, FileObject

MAX_UPLOAD = 512 * 2**20
_CHUNK = 2**20

Limit = Annotated[int, QueryParameter(ge=1, le=10_000)]
Order = Literal["asc", "desc"]


@post("/files", status_code=200, request_max_body_size=MAX_UPLOAD + 2**20, operation_id="createFile")
async def create_file(data: MultipartBody[dict[str, Any]], services: Given) -> FileObject:
    """Keep a file; one for fine-tuning must be JSON Lines to its end."""
    upload, purpose = data.get("file"), data.get("purpose")
    if not isinstance(upload, UploadFile):
        raise InvalidRequest("The form has no file: send multipart/form-data with a part 'file'.", param="file")
    if purpose not in PURPOSES:
        raise InvalidRequest(f"purpose is {purpose!r}, not one of {', '.join(PURPOSES)}.", param="purpose")
    stored = await services.files.save(
        _chunks(upload),
        filename=upload.filename,
        purpose=str(purpose),
        check=_check_training_data if purpose == "fine-tune" else lambda _path: None,
        lifetime=_lifetime(data),
    )
    return _object(stored)


@get("/files", operation_id="listFiles")
async def list_files(
    services: Given,
    after: FromQuery[str | None] = None,
    limit: Limit = 10_000,
    order: FromQuery[Order] = "desc",
    purpose: FromQuery[str | None] = None,
) -> Page[FileObject]:
    """A page of files."""
    found = await services.files.list(limit=limit + 1, after=after, purpose=purpose, newest_first=order == "desc")
    return page_of([_object(stored) for stored in found], limit)


@get("/files/{file_id:str}", operation_id="retrieveFile")
async def retrieve_file(file_id: FromPath[str], services: Given) -> FileObject:
    """One file's facts."""
    return _object(await services.files.get(file_id))


@get("/files/{file_id:str}/content", operation_id="downloadFile")
async def download_file(file_id: FromPath[str], services: Given) -> File:
    """One file's bytes."""
    stored = await services.files.get(file_id)
    return File(path=stored.path, filename=Path(stored.filename).name, media_type="application/octet-stream")


@delete("/files/{file_id:str}", status_code=200, operation_id="deleteFile")
async def delete_file(file_id: FromPath[str], services: Given) -> Response[Deleted]:
    """Delete a file; jobs that began with it keep their own copy."""
    await services.files.delete(file_id)
    return Response(Deleted(id=file_id, object="file"))


async def _chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await upload.read(_CHUNK):
        yield chunk


def _check_training_data(path: Path) -> None:
    rows = collections.deque(read_rows(path), maxlen=1)
    if not rows:
        raise InvalidDataset("The file is empty: training data is one JSON object per line.", param="file")


def _lifetime(form: dict[str, Any]) -> int | None:
    seconds = form.get("expires_after[seconds]")
    if seconds is None:
        return None
    text = str(seconds)
    if not text.isdecimal() or len(text) > 7 or int(text) not in LIFETIMES_S:
        raise InvalidRequest("expires_after must be 3600 to 2592000 seconds.", param="expires_after[seconds]")
    return int(text)


def _object(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.bytes,
        created_at=stored.created_at,
        filename=stored.filename,
        purpose=stored.purpose,
        expires_at=stored.expires_at,
    )

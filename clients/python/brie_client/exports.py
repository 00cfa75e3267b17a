"""The client's side of /v1/exports. It knows paths, wire types, and which file of an export is which."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import openai

from brie_client.download import Address, fetch, is_whole
from brie_client.following import until_final
from brie_core.durable import sync_folder
from brie_core.wire import Deleted, ExportedFile, ExportEvent, ExportObject, Page

Arrived = Callable[[ExportedFile, int], None]
"""Told the file, and how many of its bytes are here."""


def _say_nothing(_file: ExportedFile, _bytes: int) -> None: ...


class Exports:
    """/v1/exports."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def create(
        self,
        *,
        model: str,
        format: str = "gguf",  # noqa: A002  # the field's name
        quantization: str | None = None,
        dtype: str | None = None,
    ) -> ExportObject:
        """Start an export; `quantization` is of a GGUF file, `dtype` of a merged folder."""
        asked = {"model": model, "format": format, "quantization": quantization, "dtype": dtype}
        body = {name: value for name, value in asked.items() if value is not None}
        return ExportObject.model_validate(self._client.post("/exports", body=body, cast_to=object))

    def list(self) -> list[ExportObject]:
        """The latest exports, newest first."""
        return Page[ExportObject].model_validate(self._client.get("/exports", cast_to=object)).data

    def retrieve(self, export_id: str) -> ExportObject:
        """One export."""
        return ExportObject.model_validate(self._client.get(f"/exports/{export_id}", cast_to=object))

    def cancel(self, export_id: str) -> ExportObject:
        """Cancel an export that is not finished."""
        return ExportObject.model_validate(self._client.post(f"/exports/{export_id}/cancel", cast_to=object))

    def delete(self, export_id: str) -> Deleted:
        """Delete a finished export with its files; openai.ConflictError for one that is not finished."""
        return Deleted.model_validate(self._client.delete(f"/exports/{export_id}", cast_to=object))

    def events(self, export_id: str, limit: int = 100) -> Sequence[ExportEvent]:
        """What happened to an export, newest first."""
        body = self._client.get(f"/exports/{export_id}/events?limit={limit}", cast_to=object)
        return Page[ExportEvent].model_validate(body).data

    def follow(self, export_id: str, poll_seconds: float = 0.5) -> Iterator[ExportObject]:
        """The export each time it has moved, until it is finished."""
        return until_final(lambda: self.retrieve(export_id), poll_seconds)

    def download(
        self, export: ExportObject, target: Path, filename: str | None = None, arrived: Arrived = _say_nothing
    ) -> Path:
        """Fetch one file of a finished export, by default its main one, to `target`.

        What an earlier try left beside `target` is gone on from. The name is given once the sha256 is right: raises
        OSError for a file that arrived damaged, httpx2.HTTPError where the connection broke again and again.
        """
        file = _file_of(export, filename)
        return fetch(self._address(export, file), target, file.sha256, lambda here: arrived(file, here))

    def download_all(self, export: ExportObject, folder: Path, arrived: Arrived = _say_nothing) -> Path:
        """Fetch every file of a finished export; `folder` appears once all of them are here and right.

        Raises FileExistsError for a folder that holds anything else.
        """
        names = {file.filename for file in export.files}
        if folder.exists():
            if not folder.is_dir() or any(folder.iterdir()):
                if not _is_export(folder, export):
                    raise FileExistsError(f"{folder} is there already, and is not this export: give another place.")
                return folder
            folder.rmdir()
        partial = folder.with_name(f"{folder.name}.{export.id}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        for file in export.files:
            self.download(export, partial / file.filename, file.filename, arrived)
        for stray in (path for path in partial.iterdir() if path.name not in names):
            stray.unlink()
        partial.rename(folder)
        sync_folder(folder.parent)
        return folder

    def _address(self, export: ExportObject, file: ExportedFile) -> Address:
        url = f"{str(self._client.base_url).rstrip('/')}/exports/{export.id}/files/{file.filename}"
        return Address(url, self._client.auth_headers)


def _file_of(export: ExportObject, filename: str | None) -> ExportedFile:
    for file in export.files:
        if filename in (None, file.filename) and Path(file.filename).name == file.filename:
            return file
    raise FileNotFoundError(f"export {export.id} has no file {filename or ''}: it is {export.status}")


def _is_export(folder: Path, export: ExportObject) -> bool:
    return all(is_whole(folder / file.filename, file.sha256) for file in export.files)

"""`Brie`, an openai.OpenAI with Brie's own resources. It knows paths and wire types."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
from openai.types.fine_tuning import FineTuningJobEvent

from brie_core.wire import AdapterObject, Deleted, ExportObject, Page

_DOWNLOAD_SECONDS = 60.0  # of silence: the server may be training on the same cores
FINAL = frozenset({"succeeded", "failed", "cancelled"})


class Brie(openai.OpenAI):
    """The client of one Brie server; a server without keys takes any."""

    def __init__(self, *, base_url: str, api_key: str = "brie", **options: Any) -> None:
        super().__init__(base_url=base_url, api_key=api_key, **options)
        self.adapters = Adapters(self)
        self.exports = Exports(self)


class Adapters:
    """/v1/adapters."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def list(self) -> list[AdapterObject]:
        """Every adapter's name with its version."""
        body = self._client.get("/adapters", cast_to=object)
        return Page[AdapterObject].model_validate(body).data

    def retrieve(self, name: str) -> AdapterObject:
        """One adapter."""
        return AdapterObject.model_validate(self._client.get(f"/adapters/{name}", cast_to=object))

    def point(self, name: str, version: str, expected_version: str | None) -> AdapterObject:
        """Point `name` at `version` if it points at `expected_version` now; openai.ConflictError on a lost race."""
        body = {"version": version, "expected_version": expected_version}
        return AdapterObject.model_validate(self._client.put(f"/adapters/{name}", body=body, cast_to=object))

    def delete(self, name: str) -> Deleted:
        """Delete the name, and the version with its last name."""
        return Deleted.model_validate(self._client.delete(f"/adapters/{name}", cast_to=object))


class Exports:
    """/v1/exports."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def create(self, *, model: str, quantization: str) -> ExportObject:
        """Start an export."""
        body = {"model": model, "quantization": quantization}
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

    def follow(self, export_id: str, poll_seconds: float = 0.5) -> Iterator[ExportObject]:
        """The export each time it has moved, until it is finished."""
        last = None
        while last is None or last.status not in FINAL:
            current = self.retrieve(export_id)
            if current != last:
                yield current
            else:
                time.sleep(poll_seconds)
            last = current

    def download(self, export: ExportObject, target: Path) -> Path:
        """Fetch the file of a finished export to `target`, in pieces; raises OSError if it arrives damaged."""
        partial = target.with_name(f"{target.name}.partial")
        try:
            if self._fetch(export.id, partial) != export.files[0].sha256:
                raise OSError(f"{target.name} arrived damaged: download it again")
            return partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _fetch(self, export_id: str, target: Path) -> str:
        """Write the export's bytes to `target`; returns their sha256."""
        url, digest = f"{str(self._client.base_url).rstrip('/')}/exports/{export_id}/content", hashlib.sha256()
        stream = httpx2.stream("GET", url, headers=self._client.auth_headers, timeout=_DOWNLOAD_SECONDS)
        with stream as response, target.open("wb") as file:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                file.write(chunk)
                digest.update(chunk)
        return digest.hexdigest()


def follow_job(client: openai.OpenAI, job_id: str, poll_seconds: float = 0.5) -> Iterator[FineTuningJobEvent]:
    """A fine-tuning job's events from its beginning, as they come, until it is finished."""
    seen: set[str] = set()
    while True:
        finished = client.fine_tuning.jobs.retrieve(job_id).status in FINAL
        fresh = []
        for event in client.fine_tuning.jobs.list_events(job_id, limit=100):
            if event.id in seen:
                break
            fresh.append(event)
        for event in reversed(fresh):
            seen.add(event.id)
            yield event
        if finished:
            return
        time.sleep(poll_seconds)

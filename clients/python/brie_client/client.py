"""`Brie`, an openai.OpenAI with Brie's own resources. It knows paths and wire types."""

import time
from collections.abc import Iterator
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJobEvent

from brie_client.evaluations import Evaluations, Gates
from brie_client.exports import Exports
from brie_client.following import FINAL
from brie_core.wire import AdapterObject, Deleted, Page, WorkerObject


class Brie(openai.OpenAI):
    """The client of one Brie server; a server without keys takes any."""

    def __init__(self, *, base_url: str, api_key: str = "brie", **options: Any) -> None:
        super().__init__(base_url=base_url, api_key=api_key, **options)
        self.adapters = Adapters(self)
        self.exports = Exports(self)
        self.evaluations = Evaluations(self)
        self.gates = Gates(self)
        self.workers = Workers(self)


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

    def point(self, name: str, version: str, expected_version: str | None, *, gate: bool = False) -> AdapterObject:
        """Point `name` at `version` if it points at `expected_version` now; openai.ConflictError on a lost race.

        With `gate` also openai.ConflictError unless the version has passed the name's gate in an evaluation.
        """
        body = {"version": version, "expected_version": expected_version, "gate": gate}
        return AdapterObject.model_validate(self._client.put(f"/adapters/{name}", body=body, cast_to=object))

    def delete(self, name: str) -> Deleted:
        """Delete the name, and the version with its last name."""
        return Deleted.model_validate(self._client.delete(f"/adapters/{name}", cast_to=object))


class Workers:
    """/v1/workers."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def list(self) -> list[WorkerObject]:
        """Every worker that was seen in the last day."""
        return Page[WorkerObject].model_validate(self._client.get("/workers", cast_to=object)).data


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

"""The client's side of /v1/evaluations and /v1/gates. It knows paths, wire types, and what a finished one has."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai

from brie_client.download import Address, fetch
from brie_client.following import until_final
from brie_core.wire import Deleted, EvaluationEvent, EvaluationObject, GateObject, Page

Candidate = str | Mapping[str, Any]
"""A model of this server, or one behind another: {"base_url", "model", "key_env"}."""


class Evaluations:
    """/v1/evaluations."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def create(
        self,
        *,
        model: Candidate | None = None,
        models: Sequence[Candidate] | None = None,
        job: str | None = None,
        against: Candidate | None = None,
        **options: Any,
    ) -> EvaluationObject:
        """Start an evaluation of `model`, of `models`, or of every checkpoint of a fine-tuning `job`.

        `options` are the other fields of the body: data, prompts, judges, sampling, gate, seed and so on.
        """
        asked = {"model": model, "models": models, "job": job, "against": against, **options}
        body = {name: value for name, value in asked.items() if value is not None}
        return EvaluationObject.model_validate(self._client.post("/evaluations", body=body, cast_to=object))

    def list(self, limit: int = 20) -> list[EvaluationObject]:
        """The latest evaluations, newest first."""
        body = self._client.get(f"/evaluations?limit={limit}", cast_to=object)
        return Page[EvaluationObject].model_validate(body).data

    def retrieve(self, evaluation_id: str) -> EvaluationObject:
        """One evaluation."""
        return EvaluationObject.model_validate(self._client.get(f"/evaluations/{evaluation_id}", cast_to=object))

    def cancel(self, evaluation_id: str) -> EvaluationObject:
        """Cancel an evaluation that is not finished."""
        body = self._client.post(f"/evaluations/{evaluation_id}/cancel", cast_to=object)
        return EvaluationObject.model_validate(body)

    def resume(self, evaluation_id: str) -> EvaluationObject:
        """Go on with a failed evaluation from what it has; openai.ConflictError for one that has not failed."""
        body = self._client.post(f"/evaluations/{evaluation_id}/resume", cast_to=object)
        return EvaluationObject.model_validate(body)

    def delete(self, evaluation_id: str) -> Deleted:
        """Delete a finished evaluation with its report; openai.ConflictError for one that is not finished."""
        return Deleted.model_validate(self._client.delete(f"/evaluations/{evaluation_id}", cast_to=object))

    def events(self, evaluation_id: str, limit: int = 100) -> Sequence[EvaluationEvent]:
        """What happened to an evaluation, newest first."""
        body = self._client.get(f"/evaluations/{evaluation_id}/events?limit={limit}", cast_to=object)
        return Page[EvaluationEvent].model_validate(body).data

    def follow(self, evaluation_id: str, poll_seconds: float = 0.5) -> Iterator[EvaluationObject]:
        """The evaluation each time it has moved, until it is finished."""
        return until_final(lambda: self.retrieve(evaluation_id), poll_seconds)

    def report(self, evaluation_id: str) -> dict[str, Any]:
        """report.json of a finished evaluation: every figure with its interval."""
        body: Any = self._client.get(f"/evaluations/{evaluation_id}/report", cast_to=object)
        return dict(body)

    def download(self, evaluation: EvaluationObject, target: Path, filename: str) -> Path:
        """Fetch one file of a finished evaluation to `target`, whole or not at all.

        Raises FileNotFoundError for one that it does not have, OSError for one that arrived damaged.
        """
        file = next((each for each in evaluation.files if each.filename == filename), None)
        if file is None:
            raise FileNotFoundError(f"evaluation {evaluation.id} has no file {filename}: it is {evaluation.status}")
        url = f"{str(self._client.base_url).rstrip('/')}/evaluations/{evaluation.id}/files/{filename}"
        return fetch(Address(url, self._client.auth_headers), target, file.sha256, lambda _here: None)


class Gates:
    """/v1/gates."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def put(self, name: str, bounds: Mapping[str, Any]) -> GateObject:
        """Store what an adapter's versions must keep to before its name moves to them."""
        body = self._client.put(f"/gates/{name}", body={"bounds": bounds}, cast_to=object)
        return GateObject.model_validate(body)

    def retrieve(self, name: str) -> GateObject:
        """The gate of a name."""
        return GateObject.model_validate(self._client.get(f"/gates/{name}", cast_to=object))

    def delete(self, name: str) -> Deleted:
        """Take the gate of a name away."""
        return Deleted.model_validate(self._client.delete(f"/gates/{name}", cast_to=object))

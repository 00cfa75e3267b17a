"""A job's events as they come, and one job for one request, over HTTP."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import Stream
from openai._base_client import make_request_options
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from brie_processes import BrieProcesses

ROWS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(12)
]


@pytest.fixture
def client(brie: BrieProcesses) -> openai.OpenAI:
    return brie.client(max_retries=0)


def start(client: openai.OpenAI, folder: Path, **more: Any) -> FineTuningJob:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with file.open("rb") as stream:
        file_id = client.files.create(file=stream, purpose="fine-tune").id
    return client.fine_tuning.jobs.create(
        model="tiny", training_file=file_id, hyperparameters={"n_epochs": 1}, seed=1, **more
    )


def streamed(client: openai.OpenAI, job: FineTuningJob, **query: str) -> Iterator[FineTuningJobEvent]:
    path, options = f"/fine_tuning/jobs/{job.id}/events", make_request_options(query={"stream": "true", **query})
    kind = Stream[FineTuningJobEvent]
    return iter(client.get(path, cast_to=FineTuningJobEvent, options=options, stream=True, stream_cls=kind))


def listed(client: openai.OpenAI, job: FineTuningJob) -> list[str]:
    return [event.id for event in reversed(list(client.fine_tuning.jobs.list_events(job.id, limit=100)))]


def test_events_come_in_order_until_the_job_is_finished(client: openai.OpenAI, tmp_path: Path) -> None:
    job = start(client, tmp_path)
    told = list(streamed(client, job))
    assert told[-1].message == "The job has successfully completed"
    assert all(event.object == "fine_tuning.job.event" for event in told)
    assert [event.id for event in told] == listed(client, job)
    behind = [event.id for event in streamed(client, job, after=told[4].id)]
    assert behind == [event.id for event in told[5:]]


def test_a_stream_ends_when_its_job_is_cancelled(client: openai.OpenAI, tmp_path: Path) -> None:
    job = start(client, tmp_path)
    client.fine_tuning.jobs.pause(job.id)
    threading.Timer(1.0, lambda: client.fine_tuning.jobs.cancel(job.id)).start()
    assert [event.message for event in streamed(client, job)][-1] == "The job was cancelled"


def test_a_stream_begins_behind_an_event_of_its_own_job(client: openai.OpenAI, tmp_path: Path) -> None:
    job, other = start(client, tmp_path), start(client, tmp_path)
    for after in ("nope", listed(client, other)[0]):
        with pytest.raises(openai.BadRequestError) as refused:
            next(streamed(client, job, after=after))
        assert (refused.value.param, refused.value.code) == ("after", "event_not_found")
    for each in (job, other):
        client.fine_tuning.jobs.cancel(each.id)


def test_a_request_that_is_sent_again_makes_no_second_job(client: openai.OpenAI, tmp_path: Path) -> None:
    job = start(client, tmp_path, extra_headers={"Idempotency-Key": f"{tmp_path}"})
    body: Any = {"model": "tiny", "training_file": job.training_file, "hyperparameters": {"n_epochs": 1}, "seed": 1}
    again = client.fine_tuning.jobs.create(**body, extra_headers={"Idempotency-Key": f"{tmp_path}"})
    assert again.id == job.id
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(**{**body, "seed": 2}, extra_headers={"Idempotency-Key": f"{tmp_path}"})
    assert refused.value.code == "idempotency_key_reused"
    unkeyed = client.fine_tuning.jobs.create(**body)
    assert unkeyed.id != job.id
    assert client.fine_tuning.jobs.create(**body, extra_headers={"x-stainless-retry-count": "1"}).id == unkeyed.id
    assert client.fine_tuning.jobs.create(**body, extra_headers={"x-stainless-retry-count": "0"}).id != unkeyed.id


def test_a_job_behind_another_tells_what_it_waits_for(client: openai.OpenAI, tmp_path: Path) -> None:
    before, job = start(client, tmp_path), start(client, tmp_path)
    told = ""
    while before.id not in told:  # at first it may wait for what other tests have left
        now = client.fine_tuning.jobs.retrieve(job.id)
        assert now.status in {"validating_files", "queued"}
        told = now.model_dump()["brie"]["waiting"] or ""
    assert [each.id for each in client.fine_tuning.jobs.list(limit=2).data] == [job.id, before.id]
    for each in (job, before):
        done = client.fine_tuning.jobs.cancel(each.id)
        assert done.model_dump()["brie"]["waiting"] is None

"""kill -9 at the worst moments: what was acknowledged stays, and jobs finish by themselves."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from brie_processes import BrieProcesses

ROWS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(16)
]


@pytest.fixture
def fragile(tiny_model: Path, tmp_path: Path) -> Iterator[BrieProcesses]:
    processes = BrieProcesses(tmp_path / "home", tiny_model)
    yield processes
    processes.stop_all()


def start_job(client: OpenAI, folder: Path, epochs: int) -> FineTuningJob:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with file.open("rb") as stream:
        file_id = client.files.create(file=stream, purpose="fine-tune").id
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        suffix="survivor",
        seed=1,
        hyperparameters={"n_epochs": epochs, "batch_size": 4},
    )


def wait(what: Callable[[], Any], seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise TimeoutError


def messages(client: OpenAI, job_id: str) -> list[str]:
    return [event.message for event in reversed(list(client.fine_tuning.jobs.list_events(job_id, limit=100)))]


def ended(client: OpenAI, job_id: str) -> FineTuningJob | None:
    job = client.fine_tuning.jobs.retrieve(job_id)
    return job if job.status in {"succeeded", "failed", "cancelled"} else None


def test_a_worker_killed_in_mid_training_is_survived(fragile: BrieProcesses, tmp_path: Path) -> None:
    client = fragile.start("brie_server", "brie_trainer").client()
    job = start_job(client, tmp_path, epochs=12)
    wait(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)
    fragile.kill("brie_trainer")
    fragile.start("brie_trainer")
    done = wait(lambda: ended(client, job.id))
    assert done.status == "succeeded", (done.error, fragile.log("brie_trainer"))
    told = messages(client, job.id)
    assert any(message.startswith("Resumed from step") for message in told), told
    assert told.count("The job has successfully completed") == 1
    assert client.chat.completions.create(model="survivor", messages=[{"role": "user", "content": "x"}], max_tokens=2)
    with sqlite3.connect(fragile.home / "brie.sqlite3") as database:
        seqs = [seq for (seq,) in database.execute("SELECT seq FROM events WHERE job_id = ? ORDER BY seq", (job.id,))]
    database.close()
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_training_process_killed_goes_on_from_its_checkpoint(fragile: BrieProcesses, tmp_path: Path) -> None:
    import psutil

    client = fragile.start("brie_server", "brie_trainer").client()
    job = start_job(client, tmp_path, epochs=12)
    wait(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)
    for process in psutil.process_iter(["cmdline"]):
        if "brie_trainer.run" in (process.info["cmdline"] or []) and str(fragile.home) in process.info["cmdline"][-1]:
            process.kill()
    assert wait(lambda: ended(client, job.id)).status == "succeeded"
    assert any("trying again from the last checkpoint" in message for message in messages(client, job.id))


def test_a_worker_that_is_stopped_gives_its_job_back(fragile: BrieProcesses, tmp_path: Path) -> None:
    client = fragile.start("brie_server", "brie_trainer").client()
    job = start_job(client, tmp_path, epochs=12)
    wait(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)
    assert fragile.stop("brie_trainer") == 0
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    fragile.start("brie_trainer")
    assert wait(lambda: ended(client, job.id)).status == "succeeded"


def test_the_api_killed_loses_nothing_it_acknowledged(fragile: BrieProcesses, tmp_path: Path) -> None:
    client = fragile.start("brie_server").client(max_retries=0)
    jobs = [start_job(client, tmp_path, epochs=1) for _ in range(3)]
    fragile.kill("brie_server")
    fragile.start("brie_server")
    assert {job.id for job in client.fine_tuning.jobs.list()} == {job.id for job in jobs}
    for job in jobs:
        assert client.files.content(job.training_file).read().count(b"\n") == len(ROWS)
        assert messages(client, job.id) == ["Created fine-tuning job", "Validating training file"]


def test_a_job_is_cancelled_in_mid_training_and_its_process_ends(fragile: BrieProcesses, tmp_path: Path) -> None:
    import psutil

    client = fragile.start("brie_server", "brie_trainer").client()
    job = start_job(client, tmp_path, epochs=50)

    def training() -> list[Any]:
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return [line for line in lines if "brie_trainer.run" in line and str(fragile.home) in line[-1]]

    wait(training)
    client.fine_tuning.jobs.cancel(job.id)
    wait(lambda: not training(), seconds=15)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    assert messages(client, job.id)[-1] == "The job was cancelled"


def test_a_file_without_an_assistant_fails_the_job_with_its_line(fragile: BrieProcesses, tmp_path: Path) -> None:
    client = fragile.start("brie_server", "brie_trainer").client()
    rows = [*ROWS[:6], {"messages": [{"role": "user", "content": "alone"}]}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with file.open("rb") as stream:
        file_id = client.files.create(file=stream, purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file_id)
    done = wait(lambda: ended(client, job.id))
    assert done.status == "failed"
    assert done.error.code == "invalid_training_file"
    assert done.error.param == "training_file"
    assert "Line 7" in done.error.message

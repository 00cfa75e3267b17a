"""The unmodified openai SDK against a running Brie: every call a fine-tuning user makes, without extra_body."""

import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from brie_processes import BrieProcesses

MESSAGES: Any = [{"role": "user", "content": "Who was Spinoza?"}]
ROWS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(12)
]


@pytest.fixture
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client(_strict_response_validation=True)


def write_rows(folder: Path, rows: list[Any], file_name: str = "rows.jsonl") -> Path:
    file = folder / file_name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def upload(client: OpenAI, file: Path) -> str:
    with file.open("rb") as stream:
        return client.files.create(file=stream, purpose="fine-tune").id


def finished(client: OpenAI, job_id: str, seconds: float = 120) -> FineTuningJob:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in {"succeeded", "failed", "cancelled"}:
            return job
        time.sleep(0.3)
    raise TimeoutError([event.message for event in client.fine_tuning.jobs.list_events(job_id)])


def start(client: OpenAI, file: Path, **options: Any) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, file),
        hyperparameters={"n_epochs": 2, "batch_size": 4},
        **options,
    )


@pytest.fixture(scope="module")
def tuned(brie: BrieProcesses, tmp_path_factory: pytest.TempPathFactory) -> FineTuningJob:
    """A job that succeeded, with a suffix and a validation file."""
    client, file = brie.client(), write_rows(tmp_path_factory.mktemp("rows"), ROWS)
    job = start(client, file, suffix="tuned", seed=3, validation_file=upload(client, file), metadata={"who": "me"})
    done = finished(client, job.id)
    assert done.status == "succeeded", (done.error, brie.log("brie_trainer"))
    return done


def test_models_are_listed_with_the_base_first(client: OpenAI) -> None:
    assert next(iter(client.models.list())).id == "tiny"


def test_a_chat_answer_counts_its_tokens(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=7)
    assert answer.choices[0].finish_reason in {"length", "stop"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_whole_answer_in_pieces(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_completion_tokens=9)
    stream = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        temperature=0,
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_seed_repeats_an_answer_and_another_seed_does_not(client: OpenAI) -> None:
    def say(seed: int) -> str | None:
        answer = client.chat.completions.create(model="tiny", messages=MESSAGES, seed=seed, max_tokens=12, top_p=0.9)
        return answer.choices[0].message.content

    assert say(1) == say(1) != say(2)


def test_a_stop_string_ends_the_answer_before_itself(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=20)
    text = whole.choices[0].message.content or ""
    stop = text[len(text) // 2 :][:3]
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=20, stop=stop)
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_text_is_continued(brie: BrieProcesses) -> None:
    client = brie.client()  # not strict: the SDK's own type knows no chunk without a finish_reason, OpenAI sends them
    whole = client.completions.create(model="tiny", prompt="Once upon", temperature=0, max_tokens=6)
    parts = client.completions.create(model="tiny", prompt="Once upon", temperature=0, max_tokens=6, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6


def test_a_file_is_kept_listed_read_and_deleted(client: OpenAI, tmp_path: Path) -> None:
    path = write_rows(tmp_path, ROWS)
    file_id = upload(client, path)
    assert client.files.retrieve(file_id).filename == "rows.jsonl"
    assert file_id in [file.id for file in client.files.list(limit=1)]
    assert client.files.content(file_id).read() == path.read_bytes()
    assert client.files.delete(file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)


def test_a_finished_job_has_every_field(client: OpenAI, tuned: FineTuningJob) -> None:
    job = client.fine_tuning.jobs.retrieve(tuned.id)
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:tiny:brie:tuned:")
    assert (job.seed, job.metadata, job.hyperparameters.n_epochs) == (3, {"who": "me"}, 2)
    assert (job.trained_tokens or 0) > 0
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    columns = client.files.content(job.result_files[0]).text.split("\n")[0]
    assert columns.startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,")


def test_events_page_by_themselves_newest_first_in_openais_order(client: OpenAI, tuned: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(tuned.id, limit=2))
    messages = [event.message for event in reversed(events) if event.level != "warn"]  # what the data are warned of
    assert messages[:4] == [
        "Created fine-tuning job",
        "Validating training file",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert messages[-1] == "The job has successfully completed"
    assert len({event.id for event in events}) == len(events)
    metrics: list[Any] = [event.data for event in events if event.type == "metrics"]
    assert {data["step"] for data in metrics if "train_loss" in data} == set(range(1, metrics[0]["total_steps"] + 1))


def test_checkpoints_answer_as_models(client: OpenAI, tuned: FineTuningJob) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(tuned.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [6, 3]
    assert checkpoints[0].metrics.full_valid_loss is not None
    for checkpoint in checkpoints:
        answer = client.chat.completions.create(
            model=checkpoint.fine_tuned_model_checkpoint, messages=MESSAGES, max_tokens=2
        )
        assert answer.model == checkpoint.fine_tuned_model_checkpoint


def test_the_result_answers_by_both_its_names_and_says_its_version(client: OpenAI, tuned: FineTuningJob) -> None:
    models = {model.id: model for model in client.models.list()}
    version = models["tuned"].root  # type: ignore[attr-defined]
    assert models["tuned"].parent == "tiny"  # type: ignore[attr-defined]
    for model in ("tuned", tuned.fine_tuned_model or ""):
        raw = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES, max_tokens=2)
        assert raw.headers["brie-adapter-version"] == version
        assert (raw.parse().system_fingerprint or "").endswith(version[:12])


def test_jobs_are_listed_and_selected_by_metadata(client: OpenAI, tuned: FineTuningJob) -> None:
    assert tuned.id in [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"who": "me"})] == [tuned.id]


def test_a_running_job_is_cancelled(client: OpenAI, tmp_path: Path) -> None:
    file_id = upload(client, write_rows(tmp_path, ROWS))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file_id, hyperparameters={"n_epochs": 50})
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert finished(client, job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)


def test_a_deleted_model_is_gone_and_nothing_answers_for_it(client: OpenAI, tmp_path: Path) -> None:
    job = finished(client, start(client, write_rows(tmp_path, ROWS[:4]), suffix="mayfly").id)
    assert job.fine_tuned_model
    for model in ("mayfly", job.fine_tuned_model):
        assert client.models.delete(model).deleted
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=model, messages=MESSAGES)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_an_argument_that_is_not_supported_is_a_clear_400(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=MESSAGES, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort"

"""Fine-tuning jobs over HTTP: methods, options, dry runs, and each option that cannot be, named."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.schema import open_database
from brie_core.weights.base_model import BaseModel
from brie_processes import BrieProcesses

CHATS = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"Here is {i}, gladly."}]}
    for i in range(12)
]
PREFERENCES = [
    {"prompt": [{"role": "user", "content": f"Say {i}"}], "chosen": f"Here is {i}, gladly.", "rejected": "No."}
    for i in range(8)
]
RATINGS = [{"prompt": f"Say {i}", "completion": f"Here is {i}.", "label": i % 2 == 0} for i in range(8)]


@pytest.fixture
def client(brie: BrieProcesses) -> openai.OpenAI:
    return brie.client(max_retries=0)


def upload(client: openai.OpenAI, folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with file.open("rb") as stream:
        return client.files.create(file=stream, purpose="fine-tune").id


def create(client: openai.OpenAI, file_id: str, **body: Any) -> FineTuningJob:
    extra = {name: body.pop(name) for name in ("brie", "method") if name in body}
    return client.fine_tuning.jobs.create(model="tiny", training_file=file_id, extra_body=extra, **body)


def ended(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    deadline = time.monotonic() + 120
    while (now := client.fine_tuning.jobs.retrieve(job.id)).status not in {"succeeded", "failed", "cancelled"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return now


def details(job: FineTuningJob) -> dict[str, Any]:
    found: dict[str, Any] = (job.model_extra or {})["brie"]
    return found


def metrics(client: openai.OpenAI, job: FineTuningJob, name: str) -> list[float]:
    data: list[Any] = [event.data for event in reversed(list(client.fine_tuning.jobs.list_events(job.id, limit=100)))]
    return [each[name] for each in data if each and name in each]


def test_preferences_are_learnt_and_the_margin_rises(client: openai.OpenAI, tmp_path: Path) -> None:
    file_id = upload(client, tmp_path, PREFERENCES)
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 4, "batch_size": 4}}}
    job = ended(client, create(client, file_id, seed=3, method=method, brie={"learning_rate": 0.01}))
    assert job.status == "succeeded", job.error
    assert job.method is not None and job.method.dpo is not None and job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.2
    margins = metrics(client, job, "train_reward_margin")
    assert margins[-1] > margins[0] == pytest.approx(0, abs=1e-3)
    assert metrics(client, job, "train_loss")[0] == pytest.approx(0.6931, abs=1e-3)
    answer = client.chat.completions.create(
        model=job.fine_tuned_model or "", messages=[{"role": "user", "content": "Say 1"}], max_tokens=2
    )
    assert answer.model == job.fine_tuned_model


def test_ratings_are_learnt(client: openai.OpenAI, brie: BrieProcesses, tmp_path: Path) -> None:
    method = {"type": "kto", "kto": {"hyperparameters": {"n_epochs": 8, "batch_size": 4, "beta": 0.5}}}
    file_id = upload(client, tmp_path, RATINGS)
    job = ended(client, create(client, file_id, seed=1, method=method, brie={"learning_rate": 0.01}))
    assert job.status == "succeeded", job.error
    losses = metrics(client, job, "train_loss")
    assert min(losses) < 0.45 < losses[0] == pytest.approx(0.5, abs=1e-3)
    assert job.method is None  # OpenAI knows none of this name, and a client that validates could not read the job
    assert details(job)["method"]["kto"]["hyperparameters"]["beta"] == 0.5
    strict = brie.client(_strict_response_validation=True)
    assert job.id in {each.id for each in strict.fine_tuning.jobs.list(limit=100)}


def test_a_dry_run_tells_what_the_run_would_take_and_makes_nothing(client: openai.OpenAI, tmp_path: Path) -> None:
    before = {model.id for model in client.models.list()}
    job = ended(client, create(client, upload(client, tmp_path, CHATS), brie={"dry_run": True}))
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("succeeded", None, None)
    told = details(job)
    assert told["estimate"]["steps"] == told["chosen"]["n_epochs"] * 6
    assert told["estimate"]["tokens_per_epoch"] == told["data"]["training"]["tokens"]
    assert 0 < told["estimate"]["peak_memory_bytes"] < told["estimate"]["free_memory_bytes"]
    assert told["estimate"]["seconds"] > 0 and told["estimate"]["disk_bytes"] > 0
    assert {model.id for model in client.models.list()} == before


def test_a_run_goes_on_from_a_trained_model(client: openai.OpenAI, tmp_path: Path) -> None:
    file_id = upload(client, tmp_path, CHATS)
    options = {"learning_rate": 0.01, "rank": 5}
    first = ended(client, create(client, file_id, hyperparameters={"n_epochs": 3}, brie=options))
    start = {"from_checkpoint": first.fine_tuned_model, "learning_rate": 0.001}
    second = ended(client, create(client, file_id, hyperparameters={"n_epochs": 1}, brie=start))
    assert second.status == "succeeded", second.error
    assert details(second)["chosen"]["rank"] == 5  # the adapter's own, not what would have been chosen
    assert metrics(client, second, "train_loss")[0] < metrics(client, first, "train_loss")[0] - 0.05


def test_a_job_that_waits_is_paused_and_resumed_and_no_other_is(client: openai.OpenAI, tmp_path: Path) -> None:
    file_id = upload(client, tmp_path, CHATS)
    busy, waiting = (create(client, file_id, hyperparameters={"n_epochs": 8}) for _ in range(2))
    assert str(client.fine_tuning.jobs.pause(waiting.id).status) == "paused"
    assert str(client.fine_tuning.jobs.pause(waiting.id).status) == "paused"
    assert ended(client, busy).status == "succeeded"
    assert str(client.fine_tuning.jobs.retrieve(waiting.id).status) == "paused"
    assert client.fine_tuning.jobs.resume(waiting.id).status in {"validating_files", "queued"}
    assert ended(client, waiting).status == "succeeded"
    jobs = client.fine_tuning.jobs
    for ask, code in ((jobs.pause, "job_not_pausable"), (jobs.resume, "job_not_paused")):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(waiting.id)
        assert refused.value.code == code
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.resume("ftjob-00000000000000")


async def point(name: str, version: str, settings: Settings) -> None:
    database = await open_database(settings)
    await AliasStore(database).move(name, version, expected=None)
    await database.aclose()


def test_a_run_goes_on_from_no_adapter_of_another_base(
    client: openai.OpenAI, brie: BrieProcesses, tmp_path: Path, tiny_lora: Path, tiny_base: BaseModel
) -> None:
    other = replace(tiny_base, digest="f" * 64)
    version = AdapterStore(brie.home).publish(tiny_lora, other, {}).digest
    asyncio.run(point("elsewhere", version, brie.settings))
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, upload(client, tmp_path, CHATS), brie={"from_checkpoint": "elsewhere"})
    assert (refused.value.param, refused.value.code) == ("brie.from_checkpoint", "adapter_base_mismatch")
    client.models.delete("elsewhere")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"brie": {"packing": True}}, "brie.packing"),
        ({"brie": {"quantization": "2bit"}}, "brie.quantization"),
        ({"brie": {"early_stopping": {"patience": 2}}}, None),
        ({"brie": {"early_stopping": {"patience": 0}}}, "brie.early_stopping.patience"),
        ({"brie": {"early_stopping": {"patients": 1}}}, "brie.early_stopping.patience"),
        ({"brie": {"dropout": 1.0}}, "brie.dropout"),
        ({"brie": {"eval_steps": 0}}, "brie.eval_steps"),
        ({"brie": {"num_processes": 0}}, "brie.num_processes"),
        ({"brie": {"report_to": ["mlflow"]}}, "brie.report_to[0]"),
        ({"brie": {"target_modules": []}}, "brie.target_modules"),
        ({"brie": {"from_checkpoint": "ft:nope"}}, "brie.from_checkpoint"),
        ({"brie": {"from_checkpoint": "any", "rank": 8}}, "brie.rank"),
        ({"brie": {"from_checkpoint": "any", "dropout": 0.1}}, "brie.dropout"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}}, "method.dpo.hyperparameters.beta"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method"),
        ({"integrations": [{"type": "wandb", "wandb": {"name": "p"}}]}, "integrations[0].wandb.project"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    client: openai.OpenAI, tmp_path: Path, body: dict[str, Any], param: str | None
) -> None:
    file_id = upload(client, tmp_path, CHATS)
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        create(client, file_id, **body)
    assert refused.value.param == param


def test_a_base_of_four_bits_is_refused_where_there_is_no_gpu(client: openai.OpenAI, tmp_path: Path) -> None:
    job = ended(client, create(client, upload(client, tmp_path, CHATS), brie={"quantization": "4bit"}))
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", "quantization_unavailable")
    assert job.error.param == "brie.quantization"


def test_rows_of_another_method_fail_the_job_by_their_line(client: openai.OpenAI, tmp_path: Path) -> None:
    job = ended(client, create(client, upload(client, tmp_path, CHATS), method={"type": "dpo"}))
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", "invalid_training_file")
    assert "Line 1" in (job.error.message or "") and "dpo" in (job.error.message or "")


def test_a_run_is_told_to_a_tracker_and_one_that_is_not_there_is_named(client: openai.OpenAI, tmp_path: Path) -> None:
    file_id = upload(client, tmp_path, CHATS)
    told = ended(client, create(client, file_id, hyperparameters={"n_epochs": 1}, brie={"report_to": ["tensorboard"]}))
    assert told.status == "succeeded", told.error
    missing = ended(client, create(client, file_id, integrations=[{"type": "wandb", "wandb": {"project": "p"}}]))
    assert missing.error is not None
    assert (missing.status, missing.error.code, missing.error.param) == ("failed", "missing_tracker", "integrations")
    assert missing.integrations is not None and missing.integrations[0].wandb.project == "p"

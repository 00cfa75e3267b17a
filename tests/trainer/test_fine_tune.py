"""What a fine-tuning job leaves in its folder and in the stores while its child tells of itself."""

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from brie_core.errors import InvalidAdapter
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus
from brie_core.weights.base_model import BaseModel
from brie_trainer.fine_tune import FineTuneKind
from trainer_jobs import spec_of

HISTORY: list[dict[str, Any]] = [
    {"step": 1, "total_steps": 2, "train_loss": 4.5, "learning_rate": 1e-4},
    {"step": 1, "total_steps": 2, "valid_loss": 4.25},
    {"step": 2, "total_steps": 2, "train_loss": 3.5, "learning_rate": 5e-5},
    {"step": 2, "total_steps": 2, "valid_loss": 4.75},
]


@pytest.fixture
def database_url() -> str:
    """SQLite: the database is not what is tested here."""
    return ""


@pytest.fixture
async def job(database: Database) -> Job:
    return await JobStore(database).create(JobKind.FINE_TUNE, spec_of(), JobStatus.QUEUED, [])


@pytest.fixture
def kind(database: Database, tiny_base: BaseModel, tmp_path: Path) -> FineTuneKind:
    return FineTuneKind(Settings(home=tmp_path), tiny_base, FileStore(database, tmp_path), AdapterStore(tmp_path))


@pytest.fixture
def attempt(job: Job, tiny_lora: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "jobs" / job.id / "attempts" / "1"
    for step in (1, 2):
        shutil.copytree(tiny_lora, folder / "checkpoints" / f"checkpoint-{step}")
    return folder


def checkpoint(step: int, *, best: bool) -> dict[str, Any]:
    provenance = {"history": HISTORY[: 2 * step], "step": step}
    return {"type": "checkpoint", "step": step, "metrics": {"step": step}, "best": best, "provenance": provenance}


def best_shown(attempt: Path) -> str:
    drawn = (attempt.parent.parent / "loss.svg").read_text()
    return next(text for element in ElementTree.fromstring(drawn).iter() if "best: " in (text := element.text or ""))


async def test_the_curve_lies_in_the_jobs_folder_from_the_first_checkpoint_on(
    kind: FineTuneKind, job: Job, attempt: Path
) -> None:
    await kind.change(job, attempt, checkpoint(1, best=True))
    assert best_shown(attempt) == "best: 4.2500 at step 1"


async def test_a_result_leaves_its_figures_and_the_whole_curve(
    kind: FineTuneKind, job: Job, attempt: Path, database: Database, tmp_path: Path
) -> None:
    result = {"type": "result", "step": 2, "trained_tokens": 5, "provenance": {"history": HISTORY, "step": 2}}
    change = await kind.change(job, attempt, result)
    assert change.result is not None
    file = await FileStore(database, tmp_path).get(change.result["result_files"][0])
    rows = list(csv.DictReader(io.StringIO(file.path.read_text())))
    assert [(row["train_loss"], row["valid_loss"]) for row in rows] == [("4.5", "4.25"), ("3.5", "4.75")]
    assert best_shown(attempt) == "best: 4.2500 at step 1"


async def test_the_best_step_that_the_run_itself_named_is_the_one_that_is_marked(
    kind: FineTuneKind, job: Job, attempt: Path
) -> None:
    await kind.change(replace(job, result={"best_step": 2}), attempt, checkpoint(2, best=False))
    assert best_shown(attempt) == "best: 4.7500 at step 2"


async def test_no_room_for_a_picture_is_no_end(kind: FineTuneKind, job: Job, attempt: Path) -> None:
    (attempt.parent.parent / "loss.svg").mkdir()
    change = await kind.change(job, attempt, checkpoint(1, best=True))
    assert change.checkpoints and change.checkpoints[0].step == 1


async def test_a_run_goes_on_only_from_an_adapter_of_its_own_base(
    job: Job, tiny_base: BaseModel, tiny_lora: Path, database: Database, tmp_path: Path
) -> None:
    adapters = AdapterStore(tmp_path)
    version = adapters.publish(tiny_lora, tiny_base, {}).digest
    going_on = replace(job, spec=dict(job.spec) | {"from_version": version})

    def found(base: BaseModel) -> str | None:
        files = FileStore(database, tmp_path)
        return FineTuneKind(Settings(home=tmp_path), base, files, adapters)._from_adapter(going_on)

    assert found(tiny_base) == str(tmp_path / "adapters" / version)
    with pytest.raises(InvalidAdapter) as refused:
        found(replace(tiny_base, digest="0" * 64))
    assert refused.value.code == "adapter_base_mismatch"

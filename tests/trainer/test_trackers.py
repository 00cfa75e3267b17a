"""Trackers: a run's numbers arrive where they were asked for, and no tracker ends a run."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brie_core.errors import InvalidRequest
from brie_trainer.training.processes import Processes
from brie_trainer.training.trackers import Trackers, asked_for
from trainer_jobs import spec_of

WANDB = {"type": "wandb", "wandb": {"project": "mine", "name": "first", "entity": "us", "tags": ["a"]}}
SETTINGS = {"n_epochs": 2, "learning_rate": 1e-4, "target_modules": ("q_proj", "v_proj"), "beta": None}
FAKE_WANDB = """
import json, pathlib
told = pathlib.Path(__file__).parent / "told.jsonl"
def note(*words):
    with told.open("a") as file:
        file.write(json.dumps(words) + chr(10))
class Config:
    def update(self, values, allow_val_change): note("config", values)
config = Config()
class Run:
    def log(self, values, step): note("log", values, step)
    def finish(self): note("finish")
def init(**given):
    note("init", given)
    return Run()
"""


@pytest.fixture(autouse=True, scope="module")
def joined() -> None:
    """accelerate's trackers ask which process they are in."""
    Processes.join("cpu")


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[Any]]]:
    """A package of that name which notes what it is told; a stranger's server is no part of a test."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    told = tmp_path / "packages" / "told.jsonl"
    return lambda: [json.loads(line) for line in told.read_text().splitlines()]


def opened(folder: Path, spec: dict[str, Any], warnings: list[str] | None = None, *, step: int = 0) -> Trackers:
    return Trackers.open(spec, folder, SETTINGS, run="ftjob-1", warn=(warnings or []).append, step=step)


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_tensorboards_file_holds_the_runs_losses(tmp_path: Path) -> None:
    trackers = opened(tmp_path, spec_of(report_to=["tensorboard"]))
    for step, loss in enumerate((4.5, 3.25, 2.0), start=1):
        trackers.log(step, {"step": step, "total_steps": 3, "train_loss": loss})
    trackers.log(3, {"valid_loss": 2.5})
    trackers.close()
    assert scalars(tmp_path / "tensorboard", "train_loss") == [(1, 4.5), (2, 3.25), (3, 2.0)]
    assert scalars(tmp_path / "tensorboard", "valid_loss") == [(3, 2.5)]
    assert "q_proj, v_proj" in next((tmp_path / "tensorboard").glob("*/hparams.yml")).read_text()


@pytest.mark.parametrize("kept", [0, 2])
def test_steps_that_a_killed_attempt_told_of_are_shown_as_they_were_run_again(tmp_path: Path, kept: int) -> None:
    spec = spec_of(report_to=["tensorboard"])
    killed = opened(tmp_path, spec)
    for step in range(5):
        killed.log(step, {"loss": 1.0})
    killed.close()
    again = opened(tmp_path, spec, step=kept)  # without a checkpoint, the base is validated again, too
    first = kept + 1 if kept else 0
    for step in range(first, 6):
        again.log(step, {"loss": 2.0})
    again.close()
    assert scalars(tmp_path / "tensorboard", "loss") == [(step, 1.0 if step < first else 2.0) for step in range(6)]


def test_an_integration_names_its_project_and_goes_on_under_the_jobs_id(
    tmp_path: Path, wandb: Callable[[], list[list[Any]]]
) -> None:
    trackers = opened(tmp_path, spec_of(report_to=["wandb"]) | {"integrations": [WANDB]})
    trackers.log(1, {"step": 1, "train_loss": 4.5, "told": "words"})
    trackers.close()
    init, config, log, finish = wandb()
    named = {"project": "mine", "name": "first", "entity": "us", "tags": ["a"]}
    assert init == ["init", named | {"id": "ftjob-1", "resume": "allow", "dir": str(tmp_path)}]
    assert config == ["config", {"n_epochs": 2, "learning_rate": 1e-4, "target_modules": "q_proj, v_proj"}]
    assert log == ["log", {"train_loss": 4.5}, 1] and finish == ["finish"]


def test_each_is_asked_once_and_the_integration_counts() -> None:
    spec = spec_of(report_to=["tensorboard", "wandb", "tensorboard"]) | {"integrations": [WANDB]}
    assert sorted((asked.name, asked.project) for asked in asked_for(spec)) == [
        ("tensorboard", "brie"),
        ("wandb", "mine"),
    ]
    assert asked_for(spec_of()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_of_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidRequest, match=f"pip install {name}") as caught:
        opened(tmp_path, spec_of(report_to=[name]))
    assert (caught.value.code, caught.value.param) == ("missing_tracker", "brie.report_to")


def test_a_half_done_run_goes_on_without_a_package_that_this_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    warnings: list[str] = []
    trackers = Trackers.open(
        spec_of(report_to=["trackio", "tensorboard"]), tmp_path, {}, run="r", warn=warnings.append, step=3
    )
    trackers.log(4, {"train_loss": 1.5})
    trackers.close()
    assert len(warnings) == 1 and "pip install trackio" in warnings[0]
    assert scalars(tmp_path / "tensorboard", "train_loss") == [(4, 1.5)]


def test_one_that_cannot_be_opened_is_the_requests_fault(tmp_path: Path, wandb: Callable[[], list[list[Any]]]) -> None:
    file = tmp_path / "packages" / "wandb.py"
    file.write_text(FAKE_WANDB + "def init(**given): raise RuntimeError('no API key')")
    with pytest.raises(InvalidRequest, match="no API key") as caught:
        opened(tmp_path, spec_of() | {"integrations": [WANDB]})
    assert (caught.value.code, caught.value.param) == ("tracker_failed", "integrations")


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_one_that_fails_in_mid_run_is_told_of_once_and_let_go(tmp_path: Path, failing: str) -> None:
    class Broken:
        def start(self) -> None: ...

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, Any], step: int | None = None) -> None:
            if failing == "log":
                raise ConnectionError("the network is gone")

        def finish(self) -> None:
            raise ConnectionError("the network is gone")

    warnings: list[str] = []
    trackers = Trackers.open(
        spec_of(report_to=["tensorboard"]), tmp_path, SETTINGS, run="ftjob-1", warn=warnings.append
    )
    trackers.running = {"wandb": Broken(), **trackers.running}
    for step in (1, 2, 3):
        trackers.log(step, {"train_loss": 4.0})
    trackers.close()
    assert warnings == ["wandb failed and is told nothing more: ConnectionError: the network is gone"]
    assert [step for step, _ in scalars(tmp_path / "tensorboard", "train_loss")] == [1, 2, 3]

"""Checkpoints on disk: a torn one is passed over, a whole one is found wherever its attempt lies."""

import json
from pathlib import Path

import pytest

from brie_trainer.training.checkpoint import at_step, newest


def write(folder: Path, step: int) -> Path:
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"x" * 100)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"files": {"adapter_model.safetensors": 100}}))
    return checkpoint


def test_the_newest_whole_checkpoint_of_all_attempts_is_found(tmp_path: Path) -> None:
    attempts = [tmp_path / "1", tmp_path / "2"]
    assert newest(attempts) is None
    first, second = write(attempts[0], 9), write(attempts[1], 12)
    assert newest(attempts) == second
    assert at_step(attempts, 9) == first
    assert at_step(attempts, 10) is None


@pytest.mark.parametrize("kept", [0, 99])
def test_a_checkpoint_that_a_power_cut_shortened_is_passed_over(tmp_path: Path, kept: int) -> None:
    first, second = write(tmp_path, 9), write(tmp_path, 12)
    (second / "adapter_model.safetensors").write_bytes(b"x" * kept)
    assert newest([tmp_path]) == first


@pytest.mark.parametrize("state", [None, "", "{", "[]", "{}"])
def test_a_checkpoint_without_its_last_file_is_passed_over(tmp_path: Path, state: str | None) -> None:
    first, second = write(tmp_path, 9), write(tmp_path, 12)
    (second / "trainer_state.json").unlink()
    if state is not None:
        (second / "trainer_state.json").write_text(state)
    assert newest([tmp_path]) == first

"""The child's whole run on a tiny model: what it tells, what it leaves, how it goes on, what it survives."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brie_trainer.training import model as model_module
from brie_trainer.training.loop import LossDiverged
from brie_trainer.training.memory_errors import OutOfMemory
from trainer_jobs import CHATS, adapter, bits, job_of, run, spec_of


def test_a_run_tells_its_steps_and_leaves_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, tiny_model, spec_of(n_epochs=2, batch_size=4), validation=CHATS[:3])
    events, last = run(job, tmp_path)
    assert [event["type"] for event in events[:1]] == ["started"]
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    assert [m["step"] for m in metrics if "train_loss" in m] == [1, 2, 3, 4, 5, 6]
    assert [m["step"] for m in metrics if "valid_loss" in m] == [0, 3, 6]
    losses = [m["valid_loss"] for m in metrics if "valid_loss" in m]
    assert losses[-1] < losses[0]
    assert last["type"] == "result" and last["step"] == 6
    assert adapter(tmp_path, last)
    assert last["provenance"]["history"] == metrics


def test_a_stopped_run_goes_on_to_the_same_adapter_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    spec = spec_of(n_epochs=3, batch_size=4, dropout=0.1)
    whole = run(job_of(tmp_path / "whole", tiny_model, spec), tmp_path / "whole")[1]
    _, stopped = run(job_of(tmp_path / "1", tiny_model, spec), tmp_path / "1", stop_after=4)
    assert stopped == {"type": "stopped", "step": 4}
    events, last = run(job_of(tmp_path / "2", tiny_model, spec, earlier=[tmp_path / "1"]), tmp_path / "2")
    assert any(event.get("message") == "Resumed from step 4" for event in events)
    assert bits(tmp_path / "2", last) == bits(tmp_path / "whole", whole)


@pytest.mark.parametrize("failing", range(1, 9))
def test_memory_running_out_at_any_call_changes_nothing_but_the_micro_batch(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    spec = spec_of(n_epochs=1, batch_size=4)
    plain = run(job_of(tmp_path / "p", tiny_model, spec, validation=CHATS[:3]), tmp_path / "p")[1]
    fail_at(monkeypatch, lambda call, _: call == failing)
    events, last = run(job_of(tmp_path / "f", tiny_model, spec, validation=CHATS[:3]), tmp_path / "f")
    warned = [event["message"] for event in events if event.get("level") == "warn"]
    assert len(warned) == 1 and "memory" in warned[0], warned
    expected = adapter(tmp_path / "p", plain)
    for name, tensor in adapter(tmp_path / "f", last).items():
        assert abs(tensor - expected[name]).max() < 2e-5, name


def assert_near(record: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    for name in {"train_loss", "valid_loss", "grad_norm"} & expected.keys():
        assert record[name] == pytest.approx(expected[name], rel=rel), (name, record)


def fail_at(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, Any], bool]) -> None:
    """Let the allocator refuse where `fails(number of the call, batch)` says so."""
    score, calls = model_module.LoraModel.score, []

    def refusing(self: Any, batch: Any, **options: Any) -> Any:
        calls.append(batch)
        if fails(len(calls), batch):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return score(self, batch, **options)

    monkeypatch.setattr(model_module.LoraModel, "score", refusing)


def test_a_run_finishes_in_whatever_memory_holds_its_longest_example(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(n_epochs=2, batch_size=6)
    plain = run(job_of(tmp_path / "p", tiny_model, spec, validation=CHATS), tmp_path / "p")[1]
    fail_at(monkeypatch, lambda _, batch: len(batch.ids_S) > 50)
    events, last = run(job_of(tmp_path / "f", tiny_model, spec, validation=CHATS), tmp_path / "f")
    assert last["step"] == plain["step"] == 4
    assert [event for event in events if event.get("level") == "warn"]
    for record, expected in zip(last["provenance"]["history"], plain["provenance"]["history"], strict=True):
        assert_near(record, expected, 1e-4)


def test_an_example_that_does_not_fit_alone_is_told_by_its_length(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, lambda _, batch: len(batch.ids_S) > 10)
    with pytest.raises(OutOfMemory, match="max_length"):
        run(job_of(tmp_path, tiny_model, spec_of(n_epochs=1, batch_size=4)), tmp_path)


def test_a_learning_rate_of_a_million_is_told_as_such(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LossDiverged, match="learning rate is too high"):
        run(job_of(tmp_path, tiny_model, spec_of(n_epochs=5, batch_size=4, learning_rate_multiplier=1e40)), tmp_path)


def test_early_stopping_publishes_the_best_and_stops(tiny_model: Path, tmp_path: Path) -> None:
    stopping = {"patience": 2, "min_delta": 0.0, "warmup_evals": 0}
    spec = spec_of(n_epochs=20, batch_size=4, learning_rate=0.02, early_stopping=stopping)
    unlike = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "No grains at all"}]}]
    events, last = run(job_of(tmp_path, tiny_model, spec, CHATS[:6], validation=unlike), tmp_path)
    losses = {e["data"]["step"]: e["data"]["valid_loss"] for e in events if "valid_loss" in e.get("data", {})}
    best = min((step for step in losses if step), key=losses.__getitem__)
    assert last["step"] == best < max(losses) < 40
    assert adapter(tmp_path, last)
    assert [e["step"] for e in events if e["type"] == "checkpoint" and e["best"]][-1] == best


def test_two_processes_take_the_steps_of_one(tiny_model: Path, tmp_path: Path) -> None:
    spec = spec_of(n_epochs=2, batch_size=4)
    alone = run(job_of(tmp_path / "1", tiny_model, spec, validation=CHATS[:3]), tmp_path / "1")[1]
    job_of(tmp_path / "2", tiny_model, spec | {"brie": spec["brie"] | {"num_processes": 2}}, validation=CHATS[:3])
    command = [sys.executable, "-m", "brie_trainer.run", str(tmp_path / "2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.wait(200) == 0, child.stderr and child.stderr.read().decode()[-3000:]
    last = json.loads((tmp_path / "2" / "events.jsonl").read_text().splitlines()[-1])
    assert last["type"] == "result"
    for record, expected in zip(last["provenance"]["history"], alone["provenance"]["history"], strict=True):
        assert_near(record, expected, 1e-3)

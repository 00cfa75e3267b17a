"""What a run says of the time it still takes, and of steps that stall, on clocks that are turned by hand."""

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from brie_trainer.training.checkpoint import Progress
from brie_trainer.training.objective import Sums
from brie_trainer.training.reporting import Reporter
from brie_trainer.training.schedule import Schedule
from brie_trainer.training.wakefulness import Wakefulness


class Simulation:
    """A run of uneven steps: so many seconds a token, validations, checkpoints, and one night's sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, asleep_at: int | None = None) -> None:
        chance = random.Random(3)
        lengths = [chance.choice((40, 90, 200, 1500)) for _ in range(400)]
        self.now, self.asleep, self.asleep_at = 0.0, 0.0, asleep_at
        self.events: list[dict[str, Any]] = []
        self.schedule = Schedule(
            num_examples=400, batch_size=4, n_epochs=3, seed=1, learning_rate=1.0, eval_steps=25, save_steps=30
        )
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.reporter = Reporter(
            emit=self.events.append,
            progress=Progress(token_cap=1, evaluation_tokens=1, gradient_checkpointing=False),
            schedule=self.schedule,
            tokens_of=lambda step: sum(lengths[number] for number in self.schedule.examples_of(step)),
            watch=Wakefulness(awake=lambda: self.now, all_time=lambda: self.now + self.asleep),
        )

    def run(self) -> Iterator[tuple[int, float, float]]:
        """(step, seconds that it says are left, the time that it says so)."""
        chance = random.Random(4)
        self._validate()
        for step in range(1, self.schedule.total_steps + 1):
            self.reporter.step_begins()
            self.now += 0.01 * self.reporter.tokens_of(step) * chance.uniform(0.9, 1.1) + (3.0 if step == 1 else 0.2)
            self.asleep += 8 * 3600 if step == self.asleep_at else 0
            self.reporter.step_ended(step, Sums.of(loss=1.0, weight=1.0), 1.0)
            yield step, [e for e in self.events if e["type"] == "metrics"][-1]["data"]["eta_seconds"], self.now
            if self.schedule.evaluates_after(step):
                self._validate()
            if self.schedule.saves_after(step):
                with self.reporter.saving():
                    self.now += 1.5

    def _validate(self) -> None:
        with self.reporter.validating():
            self.now += 200.0  # a third of the run: left out, the time would be wrong by more than a fifth


@pytest.mark.parametrize("asleep_at", [None, 5])
def test_the_time_left_is_right_within_a_fifth_from_the_tenth_step_on(
    monkeypatch: pytest.MonkeyPatch, asleep_at: int | None
) -> None:
    simulation = Simulation(monkeypatch, asleep_at=asleep_at)
    told = list(simulation.run())
    assert len(told) == simulation.schedule.total_steps == 300
    for step, left, at in told[9:270]:
        truly = simulation.now - at
        assert abs(left - truly) <= 0.2 * truly, (step, left, truly)
    slept = [event for event in simulation.events if event["type"] == "message" and "slept" in event["message"]]
    assert len(slept) == (asleep_at is not None)


def test_a_long_step_is_no_stall_for_being_long(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(monkeypatch)
    list(simulation.run())
    assert [event["message"] for event in simulation.events if event["type"] == "message"] == []


def watched(*steps: tuple[float, int]) -> list[str | None]:
    """Steps of so many seconds and tokens."""
    now = 0.0
    watch = Wakefulness(awake=lambda: now, all_time=lambda: now)
    found = []
    for seconds, tokens in steps:
        watch.begin()
        now += seconds
        found.append(watch.end(tokens)[1])
    return found


def test_a_stall_is_held_against_what_so_many_tokens_usually_take() -> None:
    usual = [(2.0, 200)] * 4
    assert watched(*usual, (30.0, 3000)) == [None] * 5
    assert watched(*usual, (60.0, 1000))[-1] == (
        "it took 60 seconds, where 10.0 are usual: something else needs the machine"
    )

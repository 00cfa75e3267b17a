"""Plans, schedules, forecasts and the watch over sleep: what is decided without a model."""

from typing import Any

import pytest

from brie_trainer.training.plan import DoesNotFit, Shape, plan
from brie_trainer.training.reporting import _ahead
from brie_trainer.training.schedule import Schedule
from brie_trainer.training.wakefulness import Wakefulness

GIB = 2**30
QWEN = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
SHAPE = Shape.of(QWEN, weights=494_000_000, trained=8_800_000)


def planned(**changes: Any) -> Any:
    given: dict[str, Any] = {"longest": 1024, "dtype": "float32", "device": "cpu", "free": 12 * GIB}
    return plan(SHAPE, **(given | {"checkpointing": None} | changes))


def test_nothing_is_computed_twice_where_memory_allows() -> None:
    found = planned()
    assert (found.token_cap, found.gradient_checkpointing) == (1024, False)
    assert 2 * GIB < found.peak_bytes < 12 * GIB


def test_less_memory_means_smaller_micro_batches_then_computing_twice_then_a_refusal() -> None:
    short = planned(longest=100, free=int(3.8 * GIB))
    assert not short.gradient_checkpointing and 100 <= short.token_cap < 1024
    assert planned(free=int(3.8 * GIB)).gradient_checkpointing
    with pytest.raises(DoesNotFit, match=r"max_length.*quantization"):
        planned(free=2 * GIB)
    assert planned(checkpointing=True).gradient_checkpointing


def test_a_plan_keeps_within_what_is_free() -> None:
    assert planned(longest=200, free=3 * GIB).gradient_checkpointing  # close, and worth the attempt
    for free in range(4, 16):
        found = planned(longest=200, free=free * GIB)
        assert found.peak_bytes <= free * GIB
        assert found.evaluation_tokens <= found.token_cap


def scheduled(**changes: Any) -> Schedule:
    given: dict[str, Any] = {"num_examples": 10, "batch_size": 4, "n_epochs": 3, "seed": 1, "learning_rate": 1.0}
    return Schedule(**(given | {"eval_steps": 100, "save_steps": 100} | changes))


def test_every_epoch_takes_every_example_once_in_another_order() -> None:
    schedule = scheduled()
    assert (schedule.steps_per_epoch, schedule.total_steps) == (3, 9)
    epochs = [[n for step in range(e * 3 + 1, e * 3 + 4) for n in schedule.examples_of(step)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] == [n for step in (1, 2, 3) for n in scheduled().examples_of(step)]
    assert epochs[0] != [n for step in (1, 2, 3) for n in scheduled(seed=2).examples_of(step)]


def test_the_rate_rises_falls_and_is_never_nothing() -> None:
    schedule = scheduled(num_examples=100, n_epochs=4)
    rates = [schedule.rate_of(step) for step in range(1, schedule.total_steps + 1)]
    assert max(rates) == rates[schedule.warmup_steps] == 1.0
    assert rates[: schedule.warmup_steps + 1] == sorted(rates[: schedule.warmup_steps + 1])
    assert rates[schedule.warmup_steps :] == sorted(rates[schedule.warmup_steps :], reverse=True)
    assert min(rates) > 0


def test_validations_and_checkpoints_come_when_they_are_due() -> None:
    schedule = scheduled(eval_steps=2, save_steps=4)
    assert [step for step in range(1, 10) if schedule.evaluates_after(step)] == [2, 3, 4, 6, 8, 9]
    assert [step for step in range(1, 10) if schedule.saves_after(step)] == [3, 4, 6, 8, 9]
    assert schedule.num_evaluations == 7


def watched(*seconds: tuple[float, float]) -> list[tuple[float, str | None]]:
    """Steps of so many seconds awake and asleep."""
    now = [0.0, 0.0]
    watch = Wakefulness(awake=lambda: now[0], all_time=lambda: now[1])
    found = []
    for awake, asleep in seconds:
        watch.begin()
        now[0] += awake
        now[1] += awake + asleep
        found.append(watch.end())
    return found


def test_sleep_is_told_and_does_not_count() -> None:
    quiet, slept = watched((3.0, 0.0), (3.0, 3600.0))
    assert quiet == (3.0, None)
    assert slept[0] == 3.0 and slept[1] is not None and "slept for 3600 seconds" in slept[1]


def test_a_stalled_step_is_told_only_against_usual_ones() -> None:
    found = watched((60.0, 0.0), (3.0, 0.0), (3.0, 0.0), (3.0, 0.0), (20.0, 0.0), (3.0, 0.0))
    assert [words is not None for _, words in found] == [False, False, False, False, True, False]


def test_what_is_ahead_of_a_step_is_counted_once_and_from_the_end() -> None:
    schedule = scheduled(eval_steps=2, save_steps=4)
    found = _ahead(schedule, lambda step: 10 * step)
    for step in range(schedule.total_steps + 1):
        later = range(step + 1, schedule.total_steps + 1)
        now_on = range(max(step, 1), schedule.total_steps + 1)
        assert found[step] == (
            sum(10 * each for each in later),
            sum(map(schedule.evaluates_after, now_on)),
            sum(map(schedule.saves_after, now_on)),
        )

"""Whose turn it is: fair to adapters, first come first served within one, and nobody waits for ever. No tensors."""

from collections.abc import Callable
from random import Random

import pytest

from brie_server.engine.base import Sampling
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence
from brie_server.engine.torch.step import Step
from brie_server.engine.torch.waiting import PATIENCE
from server.engine.asking import prompt


def a_sequence(adapter: str | None = None, length: int = 4, max_tokens: int = 4) -> Sequence:
    return Sequence(prompt((1,) * length, max_tokens, adapter=adapter, sampling=Sampling()))


def a_scheduler(token_budget: int = 100_000, **limits: int) -> Scheduler:
    return Scheduler(
        Limits(**({"smallest_capacity": 16, "max_waiting": 1000, "max_blocks": 0} | limits)),
        token_budget=token_budget,
        context_length=256,
    )


def admissions(
    scheduler: Scheduler, num_steps: int, each_step: Callable[[Step], object] = lambda step: None
) -> list[Sequence]:
    """Everybody who gets a row in so many steps, in order; whoever comes back counts again."""
    admitted: list[Sequence] = []
    before: set[Sequence] = set()
    for _ in range(num_steps):
        if (step := scheduler.plan()) is None:
            break
        running = {sequence: sequence.row for sequence in scheduler.running}
        admitted += [sequence for sequence in running if sequence not in before]
        each_step(step)
        scheduler.advance(step, [1] * len(step.sampling))
        before = {sequence for sequence in running if not sequence.finish}
    return admitted


def test_a_single_request_does_not_wait_behind_another_adapters_hundred() -> None:
    scheduler, single = a_scheduler(max_rows=4), a_sequence("b")
    for sequence in [*(a_sequence("a") for _ in range(104)), single]:
        scheduler.add(sequence)
    assert admissions(scheduler, 100).index(single) <= 4


def test_rows_are_shared_between_adapters_and_the_base() -> None:
    scheduler = a_scheduler(max_rows=6)
    for adapter in ("a", "b", None):
        for _ in range(10):
            scheduler.add(a_sequence(adapter))
    assert [each.prompt.adapter for each in admissions(scheduler, 1)] == ["a", "b", None] * 2


def test_the_oldest_is_passed_so_often_and_no_more() -> None:
    scheduler, oldest = a_scheduler(max_rows=2), a_sequence("a")
    scheduler.add(a_sequence("a", max_tokens=200))
    admissions(scheduler, 1)
    scheduler.add(oldest)
    for index in range(3 * PATIENCE):
        scheduler.add(a_sequence(f"other-{index}"))
    assert admissions(scheduler, 150)[1:].index(oldest) == PATIENCE


def test_those_that_the_oldest_stands_before_are_not_helped_by_its_patience() -> None:
    """Else a hundred requests of one adapter, all of them passed, would then be served in one go."""
    scheduler = a_scheduler(max_rows=1)
    for _ in range(100):
        scheduler.add(a_sequence("a", max_tokens=1))
    scheduler.add(a_sequence("a", max_tokens=1))
    assert all(sequence.times_passed <= PATIENCE for sequence in admissions(scheduler, 101))


def test_whoever_was_sent_back_comes_first_even_if_its_adapter_has_more_rows() -> None:
    scheduler = a_scheduler(token_budget=256, max_rows=8)
    old, young = a_sequence("a", max_tokens=200), a_sequence("a", max_tokens=200)
    for sequence in (old, young):
        scheduler.add(sequence)
    admissions(scheduler, 1)
    while scheduler.num_waiting == 0:
        admissions(scheduler, 1)
    assert (old.row, young.row) == (0, None)
    other = a_sequence("b")
    scheduler.add(other)
    back = [each for each in admissions(scheduler, 400) if each in (young, other)]
    assert back[0] is young


@pytest.mark.parametrize("seed", range(30))
def test_under_any_load(seed: int) -> None:
    """Everybody is admitted in bounded time, in its adapter's order; no row stays empty; the budget holds."""
    chance = Random(seed)
    max_rows, budget = chance.choice([1, 2, 5, 16]), chance.choice([256, 700, 100_000])
    scheduler = a_scheduler(budget, max_rows=max_rows)
    arrived: list[Sequence] = []
    ahead: dict[Sequence, int] = {}
    passed: dict[Sequence, int] = {}
    met: dict[str | None, list[Sequence]] = {}
    before: set[Sequence] = set()
    arriving = chance.choices(["a", "b", "c", None, "d"], [50, 5, 5, 5, 1], k=200)
    while arriving or not scheduler.is_idle:
        for _ in range(min(chance.choice([0, 0, 1, 3, 40]), len(arriving))):
            sequence = a_sequence(arriving.pop(), chance.randint(1, 30), chance.randint(1, 30))
            ahead[sequence] = sum(1 for each in arrived if each not in passed)
            arrived.append(sequence)
            scheduler.add(sequence)
        if (step := scheduler.plan()) is None:
            continue
        assert step.rectangle.num_tokens <= budget
        running = list(scheduler.running)
        for sequence in running:
            if sequence not in before and sequence not in passed:
                passed[sequence] = len(passed)
                met.setdefault(sequence.prompt.adapter, []).append(sequence)
        if budget == 100_000:
            assert len(running) == max_rows or not scheduler.num_waiting
        scheduler.advance(step, [1] * len(step.sampling))
        before = set(running)
    position = {sequence: index for index, sequence in enumerate(arrived)}
    for sequence, admitted in passed.items():
        earlier = sum(1 for each in arrived[: position[sequence]] if passed[each] < admitted)
        assert admitted - earlier <= (ahead[sequence] + 1) * PATIENCE
    for sequences in met.values():
        assert sequences == sorted(sequences, key=position.__getitem__)
    assert all(sequence.num_generated == sequence.prompt.max_tokens for sequence in arrived)

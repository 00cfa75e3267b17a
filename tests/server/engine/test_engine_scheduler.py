"""The scheduler's rules, one at a time and under a random load. No tensors, no threads, no waiting."""

from random import Random

import pytest

from brie_core.errors import Overloaded
from brie_server.engine.base import FinishReason, Sampling
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence
from brie_server.engine.torch.step import Move, Rectangle, Step
from server.engine.asking import prompt

STOP = 7


def a_sequence(length: int = 10, max_tokens: int = 5, seed: int | None = None) -> Sequence:
    return Sequence(prompt((1,) * length, max_tokens, sampling=Sampling(seed=seed), stop_ids=frozenset({STOP})))


def a_scheduler(token_budget: int = 4096, context_length: int = 256, **limits: int) -> Scheduler:
    return Scheduler(
        Limits(**({"smallest_capacity": 16, "chunk_size": 32} | limits)),
        token_budget=token_budget,
        context_length=context_length,
    )


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.add(sequence)


def advance(scheduler: Scheduler, token_id: int = 1) -> Step:
    step = scheduler.plan()
    assert step is not None
    scheduler.advance(step, [token_id] * len(step.sampling))
    return step


def computed(step: Step) -> list[tuple[Sequence, int]]:
    return [(chunk.sequence, chunk.num_tokens) for chunk in step.chunks]


def test_without_sequences_there_is_no_step() -> None:
    assert a_scheduler().plan() is None


def test_a_prompt_is_computed_in_one_step_and_then_token_by_token() -> None:
    scheduler, sequence = a_scheduler(), a_sequence(length=10)
    add(scheduler, sequence)
    assert computed(advance(scheduler)) == [(sequence, 10)]
    assert computed(advance(scheduler)) == [(sequence, 1)]


def test_a_long_prompt_is_computed_in_chunks_and_samples_only_after_the_last() -> None:
    scheduler, sequence = a_scheduler(chunk_size=32), a_sequence(length=70)
    add(scheduler, sequence)
    steps = [advance(scheduler) for _ in range(3)]
    assert [computed(step)[0][1] for step in steps] == [32, 32, 6]
    assert [len(step.sampling) for step in steps] == [0, 0, 1]


def test_a_long_prompt_does_not_stall_a_stream() -> None:
    scheduler, stream, long = a_scheduler(chunk_size=32), a_sequence(max_tokens=50), a_sequence(length=100)
    add(scheduler, stream)
    advance(scheduler)
    add(scheduler, long)
    assert computed(advance(scheduler)) == [(stream, 1), (long, 32)]
    assert computed(advance(scheduler)) == [(stream, 1), (long, 32)]


def test_prompts_share_a_step_oldest_first() -> None:
    scheduler, first, second, third = a_scheduler(chunk_size=25), a_sequence(), a_sequence(), a_sequence()
    add(scheduler, first, second, third)
    assert computed(advance(scheduler)) == [(first, 10), (second, 10), (third, 5)]
    assert computed(advance(scheduler)) == [(first, 1), (second, 1), (third, 5)]


def test_the_answer_ends_at_max_tokens() -> None:
    scheduler, sequence = a_scheduler(), a_sequence(max_tokens=2)
    add(scheduler, sequence)
    advance(scheduler)
    assert sequence.finish is None
    advance(scheduler)
    assert sequence.finish is FinishReason.LENGTH
    assert scheduler.is_idle


def test_the_answer_ends_at_a_stop_token() -> None:
    scheduler, sequence = a_scheduler(), a_sequence()
    add(scheduler, sequence)
    advance(scheduler, token_id=STOP)
    assert sequence.finish is FinishReason.STOP
    assert sequence.token_ids[-1] == STOP


def test_a_stop_token_at_max_tokens_is_a_stop() -> None:
    assert a_sequence(max_tokens=1).append(STOP).finish is FinishReason.STOP


def test_a_sequence_without_a_number_leaves_its_row() -> None:
    scheduler, sequence = a_scheduler(), a_sequence()
    add(scheduler, sequence)
    step = scheduler.plan()
    assert step is not None
    assert scheduler.advance(step, [None]) == [(sequence, None)]
    assert scheduler.is_idle


def test_a_full_queue_turns_requests_away() -> None:
    scheduler = a_scheduler(max_rows=2, max_waiting=1)
    add(scheduler, a_sequence(), a_sequence(), a_sequence())
    with pytest.raises(Overloaded):
        scheduler.add(a_sequence())


def test_a_burst_may_fill_rows_and_queue_before_the_first_step() -> None:
    scheduler = a_scheduler(max_rows=2, max_waiting=1)
    add(scheduler, a_sequence(), a_sequence(), a_sequence())
    advance(scheduler)
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)


def test_admission_stops_at_the_token_budget_and_keeps_the_order() -> None:
    scheduler = a_scheduler(token_budget=256, max_rows=8)
    large, small = a_sequence(length=150), a_sequence(length=5)
    add(scheduler, a_sequence(length=10), large, small)
    advance(scheduler)
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)


def test_a_sequence_is_admitted_only_with_room_to_grow() -> None:
    scheduler = a_scheduler(token_budget=256, max_rows=8)
    add(scheduler, *(a_sequence(length=16, max_tokens=200) for _ in range(5)))
    assert advance(scheduler).rectangle.rows == 2
    assert scheduler.num_running == 2


def test_rows_are_given_from_the_lowest() -> None:
    scheduler, sequences = a_scheduler(), [a_sequence() for _ in range(3)]
    add(scheduler, *sequences)
    scheduler.plan()
    assert [sequence.row for sequence in sequences] == [0, 1, 2]


def test_a_freed_row_is_filled_from_above() -> None:
    scheduler, sequences = a_scheduler(), [a_sequence(length=1, max_tokens=9) for _ in range(3)]
    add(scheduler, *sequences)
    advance(scheduler)
    scheduler.abort(sequences[0])
    assert advance(scheduler).moves == (Move(source=2, target=0, num_tokens=1),)
    assert [sequence.row for sequence in sequences[1:]] == [1, 0]


def test_a_sequence_with_nothing_computed_moves_without_copying() -> None:
    scheduler, sequences = a_scheduler(), [a_sequence() for _ in range(2)]
    add(scheduler, *sequences)
    scheduler.plan()
    scheduler.abort(sequences[0])
    assert advance(scheduler).moves == ()
    assert sequences[1].row == 0


def test_the_rectangle_grows_in_doublings() -> None:
    scheduler = a_scheduler()
    add(scheduler, a_sequence(length=15, max_tokens=60))
    capacities = {advance(scheduler).rectangle.capacity for _ in range(50)}
    assert capacities == {16, 32, 64}


def test_a_rectangle_is_reserved_from_the_beginning_where_it_fits() -> None:
    scheduler = a_scheduler(reserved_rows=8, reserved_capacity=128, token_budget=1024)
    add(scheduler, a_sequence(length=10, max_tokens=60))
    assert {advance(scheduler).rectangle for _ in range(50)} == {Rectangle(8, 128)}
    add(scheduler, a_sequence(length=200))
    assert advance(scheduler).rectangle == Rectangle(2, 256)  # eight rows of that length do not fit
    add(scheduler, *(a_sequence() for _ in range(2)))
    assert advance(scheduler).rectangle == Rectangle(4, 256)


def test_no_more_is_reserved_than_can_be_used() -> None:
    scheduler = a_scheduler(reserved_rows=8, reserved_capacity=128, max_rows=3, context_length=100)
    add(scheduler, a_sequence())
    assert advance(scheduler).rectangle == Rectangle(3, 100)


def test_the_rectangle_is_no_longer_than_the_context() -> None:
    scheduler = a_scheduler(token_budget=100, context_length=100)
    add(scheduler, a_sequence(length=90, max_tokens=10))
    assert advance(scheduler).rectangle == Rectangle(1, 100)


def test_the_rectangle_is_given_back_when_idle() -> None:
    scheduler, sequence = a_scheduler(), a_sequence(length=100)
    add(scheduler, sequence)
    advance(scheduler)
    scheduler.abort(sequence)
    assert scheduler.plan() is None
    add(scheduler, a_sequence(length=5))
    assert advance(scheduler).rectangle == Rectangle(1, 16)


def test_many_short_rows_make_way_for_one_long_row() -> None:
    scheduler, long = a_scheduler(token_budget=256, max_rows=8), a_sequence(length=3, max_tokens=250)
    short = [a_sequence(length=3, max_tokens=5) for _ in range(7)]
    add(scheduler, *short)
    advance(scheduler)
    for each in short:
        scheduler.abort(each)
    add(scheduler, long)
    while not scheduler.is_idle:
        assert advance(scheduler).rectangle.num_tokens <= 256
    assert long.num_generated == 250


def two_that_outgrow_the_budget() -> tuple[Scheduler, Sequence, Sequence]:
    scheduler = a_scheduler(token_budget=256, max_rows=8, max_blocks=0)
    old, young = a_sequence(length=10, max_tokens=200), a_sequence(length=10, max_tokens=200, seed=5)
    add(scheduler, old, young)
    while old.num_tokens <= 128:
        advance(scheduler)
    return scheduler, old, young


def test_growth_preempts_the_youngest() -> None:
    scheduler, old, young = two_that_outgrow_the_budget()
    generated = young.num_generated
    advance(scheduler)
    assert (old.row, young.row, young.num_computed) == (0, None, 0)
    assert young.num_generated == generated


def test_the_preempted_goes_before_all_that_wait() -> None:
    scheduler, old, young = two_that_outgrow_the_budget()
    late = a_sequence()
    add(scheduler, late)
    while young.row is None or old.finish is None:
        advance(scheduler)
    assert young.row == 0


def test_the_preempted_is_computed_again_from_the_start_with_what_it_had_generated() -> None:
    scheduler, old, young = two_that_outgrow_the_budget()
    advance(scheduler)
    known = young.num_tokens
    while young.num_computed == 0:
        step = advance(scheduler)
    assert old.finish
    assert (step.chunks[-1].start, step.chunks[-1].num_tokens) == (0, 32)
    assert young.num_tokens == known


def test_preemption_keeps_the_random_state() -> None:
    sequence, undisturbed = a_sequence(seed=5), a_sequence(seed=5)
    drawn = [sequence.random.random()]
    sequence.restart()
    drawn.append(sequence.random.random())
    assert drawn == [undisturbed.random.random() for _ in range(2)]


def test_a_waiting_sequence_can_be_aborted() -> None:
    scheduler, sequences = a_scheduler(max_rows=1), [a_sequence(), a_sequence()]
    add(scheduler, *sequences)
    advance(scheduler)
    scheduler.abort(sequences[1])
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 0)


def test_aborting_twice_is_no_error() -> None:
    scheduler, sequence = a_scheduler(), a_sequence()
    add(scheduler, sequence)
    scheduler.abort(sequence)
    scheduler.abort(sequence)
    assert scheduler.is_idle


def test_a_budget_below_one_context_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold one context"):
        a_scheduler(token_budget=255, context_length=256)


def check_step(step: Step, token_budget: int, chunk_size: int) -> None:
    rows = [chunk.sequence.row for chunk in step.chunks]
    assert len(set(rows)) == len(rows)
    assert step.rectangle.num_tokens <= token_budget
    for chunk in step.chunks:
        assert chunk.sequence.row is not None
        assert chunk.sequence.row < step.rectangle.rows
        assert chunk.end <= step.rectangle.capacity
    assert [chunk.num_tokens > 1 for chunk in step.chunks] == sorted(chunk.num_tokens > 1 for chunk in step.chunks)
    assert sum(chunk.num_tokens for chunk in step.chunks if chunk.num_tokens > 1) <= chunk_size


@pytest.mark.parametrize("seed", range(40))
def test_under_any_load_everything_completes_within_the_budget(seed: int) -> None:
    chance = Random(seed)
    budget, chunk_size = chance.choice([256, 300, 512, 2000]), chance.choice([4, 32, 300])
    scheduler = a_scheduler(budget, chunk_size=chunk_size, max_rows=chance.choice([1, 3, 8]), max_waiting=100)
    arriving = [a_sequence(chance.randint(1, 120), chance.randint(1, 136)) for _ in range(50)]
    kept = list(arriving)
    for _ in range(100_000):
        if arriving and chance.random() < 0.2:
            scheduler.add(arriving.pop(0))
        if chance.random() < 0.005 and len(kept) > 30:
            scheduler.abort(aborted := kept.pop(chance.randrange(len(kept))))
            arriving = [each for each in arriving if each is not aborted]
        if step := scheduler.plan():
            check_step(step, budget, chunk_size)
            assert {each for each in kept if each.num_computed and not each.finish} <= set(dict(computed(step)))
            scheduler.advance(step, [1] * len(step.sampling))
        elif not arriving:
            break
    assert scheduler.is_idle
    assert all(sequence.num_generated == sequence.prompt.max_tokens for sequence in kept)

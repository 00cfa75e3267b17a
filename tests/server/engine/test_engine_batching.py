"""What runs beside a request, in which pieces and with which interruptions, does not change its answer."""

from random import Random

import pytest

from brie_server.engine.base import Prompt, Sampling
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.step import Step
from server.engine.asking import Among, drive, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, VOCAB_SIZE, token_ids


def a_scheduler(token_budget: int = 4096, **limits: int) -> Scheduler:
    return Scheduler(
        Limits(**({"smallest_capacity": 16} | limits)), token_budget=token_budget, context_length=CONTEXT_LENGTH
    )


def alone(runner: Runner, asked: list[Prompt]) -> list[list[int]]:
    return [drive(a_scheduler(), runner, [each])[0][0] for each in asked]


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_a_prompt_computed_in_chunks_is_answered_as_in_one_piece(runner: Runner, chunk_size: int) -> None:
    asked = [prompt(token_ids(100), 20)]
    chunked, steps = drive(a_scheduler(chunk_size=chunk_size), runner, asked)
    assert chunked == alone(runner, asked)
    assert len(steps) == -(-100 // chunk_size) + 19


def test_prompts_of_all_lengths_in_one_batch_are_answered_as_alone(runner: Runner) -> None:
    asked = [prompt(token_ids(length, length), 30) for length in (1, 2, 16, 17, 40, 100, 130)]
    together, steps = drive(a_scheduler(chunk_size=32), runner, asked)
    assert together == alone(runner, asked)
    assert max(len(step.chunks) for step in steps) == len(asked)


def preempted(steps: list[Step]) -> int:
    """How often a sequence began again."""
    starts = [chunk.sequence for step in steps for chunk in step.chunks if chunk.start == 0]
    return len(starts) - len(set(starts))


@pytest.mark.parametrize("form", [None, Among(frozenset(range(2, VOCAB_SIZE, 7)), 200, 200)])
def test_a_preempted_request_is_answered_as_if_nothing_had_happened(form: Among | None, runner: Runner) -> None:
    asked = [prompt(token_ids(10, seed), 200, sampling=Sampling(seed=seed), form=form) for seed in range(3)]
    undisturbed, without = drive(a_scheduler(), runner, asked)
    disturbed, steps = drive(a_scheduler(token_budget=256, chunk_size=32, max_blocks=0), runner, asked)
    assert disturbed == undisturbed
    assert (preempted(without), preempted(steps)) == (0, 1)


@pytest.mark.parametrize("form", [None, Among(frozenset(range(2, VOCAB_SIZE, 7)), 99)])
@pytest.mark.parametrize("sampling", [Sampling(seed=7), Sampling(seed=7, temperature=0.6, top_p=0.8)])
def test_a_seeded_request_repeats_whatever_runs_beside_it(
    runner: Runner, sampling: Sampling, form: Among | None
) -> None:
    seeded = prompt(token_ids(20), 60, sampling=sampling)
    others = [prompt(token_ids(5 * n, n), 10 + 7 * n, sampling=Sampling(), form=form) for n in range(1, 6)]
    (first,) = alone(runner, [seeded])
    assert [drive(a_scheduler(), runner, [*others, seeded])[0][-1] for _ in range(2)] == [first, first]
    assert alone(runner, [prompt(token_ids(20), 60, sampling=Sampling(seed=8))]) != [first]


def test_without_a_seed_answers_differ(runner: Runner) -> None:
    asked = [prompt(token_ids(20), 30, sampling=Sampling())] * 2
    first, second = drive(a_scheduler(), runner, asked)[0]
    assert first != second


def test_fifty_requests_through_a_small_rectangle_are_all_answered_as_alone(runner: Runner) -> None:
    chance = Random(1)
    sizes = [(chance.randint(1, 90), chance.randint(1, 40)) for _ in range(48)] + [(20, 180), (30, 226)]
    asked = [prompt(token_ids(length, seed), new) for seed, (length, new) in enumerate(sizes)]
    answered, steps = drive(a_scheduler(token_budget=512, max_rows=6, chunk_size=32), runner, asked)
    assert answered == alone(runner, asked)
    assert max(len(step.chunks) for step in steps) > 2
    assert any(step.moves for step in steps)

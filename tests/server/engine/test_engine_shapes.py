"""Few shapes: the arithmetic, how many shapes a long random workload meets, and that no answer changes."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from brie_server.engine.base import Prompt, Sampling
from brie_server.engine.torch.lora_share import Run, in_few_shapes, share_out
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence
from brie_server.engine.torch.shapes import EXACT, Shapes, padded
from server.engine.asking import drive, load_kind, make_runner, prompt
from server.engine.tiny_models import ADAPTERS, CONTEXT_LENGTH, FAMILIES, TinyModel, token_ids

FEW = Shapes(few=True)


@pytest.fixture
def few_runner(tiny_model: TinyModel) -> Runner:
    return make_runner(tiny_model.base, shapes=FEW)


def a_scheduler(token_budget: int = 4096, **limits: int) -> Scheduler:
    limits = {"smallest_capacity": 64, "chunk_size": 64, "max_rows": 8} | limits
    return Scheduler(Limits(**limits), token_budget=token_budget, context_length=CONTEXT_LENGTH)


def test_counts_are_rounded_up_to_few_numbers() -> None:
    counts = [FEW.count(number) for number in range(1, 321)]
    assert sorted(set(counts)) == [1, 2, 4, 8, 16, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]
    assert all(number <= count for number, count in enumerate(counts, 1))
    assert FEW.count(0) == 1


def test_positions_stay_within_the_cache() -> None:
    assert [FEW.positions(number, 100) for number in (1, 64, 65, 90, 100)] == [64, 64, 80, 96, 100]


def test_a_window_covers_what_is_asked_for_and_stays_inside() -> None:
    chance = Random(1)
    for _ in range(200):
        most = chance.randint(1, 32)
        first = chance.randrange(most)
        number = chance.randint(1, most - first)
        start, size = FEW.window(first, number, most)
        assert 0 <= start <= first
        assert first + number <= start + size <= most


def test_exact_shapes_are_what_is_needed() -> None:
    assert (EXACT.count(5), EXACT.positions(5, 9), EXACT.window(2, 3, 9)) == (5, 5, (2, 3))


def test_padding_repeats_the_last() -> None:
    assert padded([1, 2], 4) == [1, 2, 2, 2]
    assert padded(range(2), 2) == [0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_every_token_keeps_its_adapter_and_gets_exactly_one_place(seed: int) -> None:
    chance, runs, start = Random(seed), [], 0
    for _ in range(chance.randint(1, 40)):
        start += chance.randint(0, 3)
        runs.append(Run(start, chance.choice([1, 1, 1, 5, 60, 256]), chance.randint(0, 31)))
        start = runs[-1].end
    slots = {token: run.slot for run in runs for token in range(run.start, run.end)}
    met = []
    for share in in_few_shapes(share_out(runs), FEW, 32):
        pairs = set(zip(share.tokens, share.places, strict=True))
        assert len({place for _, place in pairs}) == len(pairs)
        assert share.first + share.num_slots <= 32
        for token, place in pairs:
            assert share.first + place // share.width == slots[token]
            assert place < share.num_slots * share.width
        met += [token for token, _ in pairs]
    assert sorted(met) == sorted(slots)


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Remembers every operation with the shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.seen: set[tuple[str, tuple[torch.Size, ...]]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [each for each in (*args, out) if isinstance(each, torch.Tensor)]
        self.seen.add((str(func), tuple(each.shape for each in tensors)))
        return out


def requests(adapters: list[str]) -> Iterator[Prompt]:
    chance = Random(3)
    while True:
        yield prompt(
            token_ids(chance.randint(1, 120), chance.randrange(1000)),
            chance.randint(1, 60),
            adapter=chance.choice([None, *adapters]),
            sampling=Sampling(temperature=0),
        )


def shapes_met(model: TinyModel, shapes: Shapes, steps: int) -> list[int]:
    """How many shapes have been met after each step of a random workload that rises and falls."""
    runner, scheduler, chance = make_runner(model.base, shapes=shapes), a_scheduler(), Random(4)
    coming = requests([load_kind(runner, model, kind) for kind in ("plain", "rslora", "all-linear")])
    recording = Recording()
    counts: list[int] = []
    while len(counts) < steps:
        if scheduler.is_idle or (scheduler.num_waiting < 6 and chance.random() < 0.15):
            for _ in range(chance.choice([1, 1, 2, 9])):
                scheduler.add(Sequence(next(coming)))
        step = scheduler.plan()
        assert step is not None
        with recording:
            sampled = runner.run(step)
        scheduler.advance(step, sampled)
        counts.append(len(recording.seen))
    return counts


def test_a_long_random_workload_meets_few_shapes(tiny_model: TinyModel) -> None:
    """About 2,000, nearly all of them early; exact shapes are 10,000 by then and grow with every step."""
    counts = shapes_met(tiny_model, FEW, 500)
    assert counts[499] < 2400
    assert counts[499] - counts[399] < (counts[199] - counts[99]) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_transformers(tiny_models: dict[str, TinyModel], family: str) -> None:
    model, lengths = tiny_models[family], (1, 50, 33)
    asked = [prompt(token_ids(length), 20) for length in lengths]
    answers, _ = drive(a_scheduler(chunk_size=16), make_runner(model.base, shapes=FEW), asked)
    assert answers == [model.reference(token_ids(length), 20) for length in lengths]


def test_base_and_all_adapters_in_one_batch_answer_as_with_exact_shapes(
    tiny_model: TinyModel, runner: Runner, few_runner: Runner
) -> None:
    for each in (runner, few_runner):
        digests = [None, *(load_kind(each, tiny_model, kind) for kind in ADAPTERS), None]
    asked = [prompt(token_ids(20 + 9 * seed, seed), 25, adapter=digest) for seed, digest in enumerate(digests)]
    exact, _ = drive(a_scheduler(), runner, asked)
    few, steps = drive(a_scheduler(), few_runner, asked)
    assert few == exact
    assert len({chunk.sequence.prompt.adapter for step in steps for chunk in step.chunks}) == len(ADAPTERS) + 1


def test_prefixes_preemption_and_moves_answer_as_with_exact_shapes(runner: Runner, few_runner: Runner) -> None:
    chance = Random(1)
    sizes = [(chance.randint(1, 90), chance.randint(1, 40)) for _ in range(30)] + [(20, 180), (30, 226)]
    asked = [prompt(token_ids(length, seed % 5), new) for seed, (length, new) in enumerate(sizes)]
    answers = []
    for each in (runner, few_runner):
        answered, steps = drive(a_scheduler(token_budget=512, max_rows=6, smallest_capacity=16), each, asked)
        answers.append(answered)
        starts = [chunk.sequence for step in steps for chunk in step.chunks if chunk.start == 0]
        assert len(starts) > len(set(starts)) or any(step.moves for step in steps)
        assert any(step.restores for step in steps)
    assert answers[0] == answers[1]


def test_padding_draws_no_chance_and_answers_nobody(few_runner: Runner, runner: Runner) -> None:
    asked = [prompt(token_ids(20, seed), 30, sampling=Sampling(seed=seed, top_p=0.9)) for seed in range(5)]
    assert drive(a_scheduler(), few_runner, asked)[0] == drive(a_scheduler(), runner, asked)[0]

"""The torch engine's sampling from logits that are known. No model."""

from collections import Counter
from typing import Any

import pytest
import torch

from brie_server.engine.base import Sampling
from brie_server.engine.torch.sampler import sample
from brie_server.engine.torch.sequence import Sequence
from server.engine.asking import prompt


def sequences(number: int, sampling: Sampling) -> list[Sequence]:
    return [Sequence(prompt((1,), 5, sampling=sampling)) for _ in range(number)]


def seeded(number: int, **how: Any) -> list[Sequence]:
    return [Sequence(prompt((1,), 5, sampling=Sampling(seed=seed, **how))) for seed in range(number)]


def repeated(probabilities: list[float], number: int) -> torch.Tensor:
    return torch.tensor(probabilities).log().repeat(number, 1)


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample(logits, sequences(2, Sampling(temperature=0))) == [1, 0]


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    assert sample(torch.tensor([[3.0, 1e30, 1.0]]), sequences(1, Sampling(temperature=1e-40))) == [1]


def test_tokens_come_as_often_as_they_are_probable() -> None:
    counts = Counter(sample(repeated([0.1, 0.6, 0.3], 4000), seeded(4000, temperature=1.0)))
    assert [counts[token] / 4000 for token in range(3)] == pytest.approx([0.1, 0.6, 0.3], abs=0.03)


def test_temperature_flattens_the_distribution() -> None:
    counts = Counter(sample(repeated([0.1, 0.9], 4000), seeded(4000, temperature=2.0)))
    assert counts[0] / 4000 == pytest.approx(0.25, abs=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    counts = Counter(sample(repeated([0.1, 0.5, 0.25, 0.15], 4000), seeded(4000, top_p=0.7)))
    assert set(counts) == {1, 2}
    assert counts[1] / 4000 == pytest.approx(2 / 3, abs=0.03)


def test_top_p_zero_keeps_the_most_probable_token() -> None:
    assert set(sample(repeated([0.1, 0.5, 0.4], 50), seeded(50, top_p=0.0))) == {1}


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    class Lowest:
        def random(self) -> float:
            return 0.0

    lowest = sequences(1, Sampling())
    lowest[0].random = Lowest()  # type: ignore[assignment]  # all that is asked of it
    assert sample(torch.tensor([[-1e30, 0.0, 0.0]]), lowest) == [1]


def test_chance_next_to_one_stays_inside_the_vocabulary() -> None:
    class Highest:
        def random(self) -> float:
            return 1 - 2**-53

    highest = sequences(2, Sampling()) + sequences(1, Sampling(top_p=0.9))
    for sequence in highest:
        sequence.random = Highest()  # type: ignore[assignment]  # all that is asked of it
    logits = torch.randn(3, 50_000, generator=torch.Generator().manual_seed(1))
    assert all(token is not None and token < 50_000 for token in sample(logits, highest))


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}])
def test_logits_that_are_no_numbers_give_no_token_and_leave_the_others_alone(how: dict[str, float]) -> None:
    logits = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 50.0, 0.0], [float("inf"), 0.0, 0.0]])
    assert sample(logits, seeded(3, **how)) == [None, 1, None]


def test_a_seeded_row_draws_the_same_whatever_stands_beside_it() -> None:
    logits = torch.randn(8, 100, generator=torch.Generator().manual_seed(1))
    together = sample(logits.clone(), seeded(4, top_p=0.9) + seeded(4, temperature=0.7))
    alone = sample(logits[2:3], seeded(4, top_p=0.9)[2:3])
    assert together[2] == alone[0]


def test_a_greedy_sequence_uses_up_no_chance() -> None:
    sequence, fresh = sequences(1, Sampling(temperature=0, seed=3))[0], sequences(1, Sampling(seed=3))[0]
    sample(torch.zeros(1, 3), [sequence])
    assert sequence.random.random() == fresh.random.random()

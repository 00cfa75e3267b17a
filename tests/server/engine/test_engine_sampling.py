"""Both engines' samplers against transformers' own processors, on logits that are known. No model."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from brie_server.engine.base import Logprobs, Prompt, Sampling
from brie_server.engine.llamacpp import sampler as llamacpp
from brie_server.engine.llamacpp.sequence import Sequence as LlamaCppSequence
from brie_server.engine.torch import adjustments
from brie_server.engine.torch import sampler as torch_sampler
from brie_server.engine.torch.sequence import Sequence as TorchSequence
from server.engine.asking import GREEDY, Among, prompt

VOCAB_SIZE = 400
"""More than the candidates that the samplers look at first."""
STEPS = 2000
ANSWER = (3, 7, 7, 7, 50, 3)


@dataclass(frozen=True)
class Engine:
    """A sampler, with what it is asked with."""

    sequence: Callable[[Prompt], Any]
    sample: Callable[[Tensor, Sequence[Any]], list[int | None]]
    adjust: Callable[[Tensor, Any], Tensor]


def adjusted(logits: Tensor, sequence: TorchSequence) -> Tensor:
    logits_SV = logits.repeat(3, 1)
    others = [TorchSequence(prompt((1,), 5)), TorchSequence(prompt((7,), 9, sampling=Sampling(repetition_penalty=9)))]
    adjustments.adjust(logits_SV, [others[0], sequence, others[1]])
    assert torch.equal(logits_SV[0], logits)
    return logits_SV[1]


ENGINES = {
    "torch": Engine(TorchSequence, lambda logits, of: torch_sampler.sample(logits.clone(), of), adjusted),
    "llamacpp": Engine(
        LlamaCppSequence,
        lambda logits, of: [llamacpp.sample(row.numpy(), each) for row, each in zip(logits, of, strict=True)],
        lambda logits, sequence: torch.from_numpy(llamacpp.adjusted(logits.numpy(), sequence)),
    ),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(5)) * 2


class Chance:
    """A source that always gives the same number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


def shares(engine: Engine, logits: Tensor, sampling: Sampling) -> Tensor:
    """How often each token comes for evenly spaced chances: its probability, up to two steps."""
    sequences = [engine.sequence(prompt((1,), 5, sampling=sampling)) for _ in range(STEPS)]
    for step, sequence in enumerate(sequences):
        sequence.random = Chance((step + 0.5) / STEPS)
    counts = Counter(engine.sample(logits.repeat(STEPS, 1), sequences))
    return torch.tensor([counts[token] / STEPS for token in range(len(logits))])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 300},
        {"top_k": 5000},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 0.999, "temperature": 1.9},
        {"min_p": 0.02},
        {"min_p": 1.0},
        {"top_k": 20, "top_p": 0.8},
        {"top_k": 290, "top_p": 0.99, "temperature": 2.0},
        {"min_p": 0.05, "top_k": 12, "top_p": 0.9, "temperature": 1.4},
    ],
)
def test_what_is_drawn_follows_transformers_distribution(how: dict[str, Any], engine: Engine, logits: Tensor) -> None:
    sampling = Sampling(**how)
    nothing: Any = None  # the warpers do not look at the tokens so far
    scores = TemperatureLogitsWarper(sampling.temperature)(nothing, logits[None])
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(nothing, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(nothing, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(nothing, scores)
    expected = torch.softmax(scores[0], -1)
    found = shares(engine, logits, sampling)
    assert found.sub(expected).abs().max() <= 2 / STEPS
    assert not found[expected == 0].any()


@pytest.mark.parametrize(("how", "kept"), [({}, range(10)), ({"top_k": 4}, range(6, 10)), ({"min_p": 0.5}, (8, 9))])
def test_frequencies_pass_a_chi_square_test(how: dict[str, Any], kept: Sequence[int], engine: Engine) -> None:
    number, weights = 3000, torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 18, 20])
    sequences = [engine.sequence(prompt((1,), 5, sampling=Sampling(seed=seed, **how))) for seed in range(number)]
    counts = Counter(engine.sample(weights.log().repeat(number, 1), sequences))
    expected = {token: number * float(weights[token] / weights[list(kept)].sum()) for token in kept}
    assert set(counts) == set(expected)
    statistic = sum((counts[token] - share) ** 2 / share for token, share in expected.items())
    assert statistic < {9: 27.9, 3: 16.3, 1: 10.8}[len(expected) - 1]  # one in a thousand passes these by chance


def after(engine: Engine, prompt_ids: tuple[int, ...], sampling: Sampling = GREEDY, **wanted: Any) -> Any:
    """A sequence whose answer so far is ANSWER."""
    sequence = engine.sequence(prompt(prompt_ids, 20, sampling=sampling, **wanted))
    for token in ANSWER:
        sequence.append(token)
    return sequence


@pytest.mark.parametrize("penalty", [1.3, 0.6])
def test_repetition_penalty_is_transformers(penalty: float, engine: Engine, logits: Tensor) -> None:
    prompt_ids = (1, 9, 9, 7)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt_ids + ANSWER]), logits[None])[0]
    found = engine.adjust(logits, after(engine, prompt_ids, Sampling(repetition_penalty=penalty)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("presence", "frequency"), [(0.5, 0.0), (0.0, 0.7), (-1.5, 2.0)])
def test_presence_and_frequency_penalties_are_openais_formula(
    presence: float, frequency: float, engine: Engine, logits: Tensor
) -> None:
    counts = torch.bincount(torch.tensor(ANSWER), minlength=VOCAB_SIZE)
    expected = logits - counts * frequency - (counts > 0) * presence
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    torch.testing.assert_close(engine.adjust(logits, after(engine, (1, 9, 9, 7), sampling)), expected)


def test_all_penalties_and_a_bias_come_in_their_order(engine: Engine, logits: Tensor) -> None:
    sampling = Sampling(
        logit_bias=((7, 4.0), (50, -2.0)), repetition_penalty=1.7, frequency_penalty=0.3, presence_penalty=0.2
    )
    expected = logits.clone()
    expected[[7, 50]] += torch.tensor([4.0, -2.0])
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([(1, 9, *ANSWER)]), expected[None])[0]
    counts = torch.bincount(torch.tensor(ANSWER), minlength=VOCAB_SIZE)
    expected = expected - counts * 0.3 - (counts > 0) * 0.2
    torch.testing.assert_close(engine.adjust(logits, after(engine, (1, 9), sampling)), expected)


def test_a_bias_is_transformers(engine: Engine, logits: Tensor) -> None:
    expected = SequenceBiasLogitsProcessor([[[4], -100.0], [[11], 2.5]])(torch.tensor([[1, 2]]), logits[None])[0]
    sequence = engine.sequence(prompt((1, 2), 5, sampling=Sampling(logit_bias=((4, -100.0), (11, 2.5)))))
    torch.testing.assert_close(engine.adjust(logits, sequence), expected)


@pytest.mark.parametrize("min_tokens", [len(ANSWER), len(ANSWER) + 1])
def test_min_tokens_is_transformers(min_tokens: int, engine: Engine, logits: Tensor) -> None:
    process = MinNewTokensLengthLogitsProcessor(2, min_tokens, [5, 8], device="cpu")
    expected = process(torch.tensor([(1, 2, *ANSWER)]), logits[None].clone())[0]
    stops = frozenset({5, 8, VOCAB_SIZE + 3})
    found = engine.adjust(logits, after(engine, (1, 2), stop_ids=stops, min_tokens=min_tokens))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("least", "ends"), [(len(ANSWER) + 1, False), (len(ANSWER), True)])
def test_a_form_leaves_its_tokens_and_the_stops_only_where_it_is_complete(
    least: int, ends: bool, engine: Engine, logits: Tensor
) -> None:
    form, stops = Among(frozenset({*ANSWER, 8, 300, VOCAB_SIZE + 9}), least), frozenset({8, 9, VOCAB_SIZE + 3})
    left = {*ANSWER, 300} | ({8, 9} if ends else set())
    expected = torch.full_like(logits, float("-inf"))
    expected[list(left)] = logits[list(left)]
    assert torch.equal(engine.adjust(logits, after(engine, (1, 2), stop_ids=stops, form=form)), expected)


def test_a_form_allows_nothing_that_was_forbidden_before(engine: Engine, logits: Tensor) -> None:
    form, stops = Among(frozenset(ANSWER), len(ANSWER)), frozenset({8})
    asked = after(engine, (1, 2), stop_ids=stops, form=form, min_tokens=len(ANSWER) + 1)
    assert engine.adjust(logits, asked)[8] == float("-inf")


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}])
def test_a_row_that_is_left_no_token_gives_none_and_leaves_the_others_alone(
    how: dict[str, Any], engine: Engine, logits: Tensor
) -> None:
    sampling = Sampling(seed=1, **how)
    asked = [prompt((1,), 5, sampling=sampling, form=form) for form in (None, Among(frozenset(), 1), None)]
    expected = engine.sample(logits[None], [engine.sequence(asked[0])])[0]
    assert expected is not None
    assert engine.sample(logits.repeat(3, 1), [engine.sequence(each) for each in asked]) == [expected, None, expected]


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}])
def test_what_is_drawn_is_what_the_form_allows(how: dict[str, Any], engine: Engine, logits: Tensor) -> None:
    ids = frozenset(logits.topk(20, largest=False).indices.tolist())
    asked = [prompt((1,), 5, sampling=Sampling(seed=seed, **how), form=Among(ids, 1)) for seed in range(100)]
    assert ids.issuperset(engine.sample(logits.repeat(100, 1), [engine.sequence(each) for each in asked]))


def test_logprobs_are_those_of_the_raw_logits(engine: Engine, logits: Tensor) -> None:
    sampling = Sampling(temperature=0.3, top_k=3, logit_bias=((4, 100.0),), repetition_penalty=1.5)
    sequence = engine.sequence(prompt((1, 4), 5, sampling=sampling, logprobs=3))
    assert engine.sample(logits[None], [sequence]) == [4]
    expected = torch.log_softmax(logits, -1)
    found: Logprobs = sequence.append(4).logprobs
    assert found.logprob == pytest.approx(float(expected[4]), abs=1e-5)
    assert found.rank == int((expected > expected[4]).sum()) + 1
    assert [token for token, _ in found.top] == expected.topk(3).indices.tolist()
    assert [logprob for _, logprob in found.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)


def test_a_row_that_asks_for_nothing_is_told_nothing(engine: Engine, logits: Tensor) -> None:
    plain = prompt((1,), 5)
    asked = [engine.sequence(each) for each in (plain, replace(plain, logprobs=0), plain, replace(plain, logprobs=2))]
    tokens = engine.sample(logits.repeat(4, 1), asked)
    told = [each.append(token).logprobs for each, token in zip(asked, tokens, strict=True)]
    assert [None if each is None else len(each.top) for each in told] == [None, 0, None, 2]


SAMPLINGS = [
    Sampling(temperature=0),
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.7, top_p=0.8),
    Sampling(seed=3, top_k=300, top_p=0.95),
    Sampling(seed=4, top_k=9),
    Sampling(seed=5, min_p=0.02, temperature=1.5),
    Sampling(seed=6, repetition_penalty=1.4),
    Sampling(seed=7, presence_penalty=2.0, frequency_penalty=-1.0),
    Sampling(temperature=0, frequency_penalty=2.0),
    Sampling(seed=8, logit_bias=((3, 7.0), (4, -100.0))),
    Sampling(seed=9, temperature=1.9, top_p=0.999),
]


@pytest.mark.parametrize("form", [None, Among(frozenset(range(1, VOCAB_SIZE, 3)) | set(ANSWER), 99)])
def test_a_mixed_batch_samples_as_each_row_alone(form: Among | None, engine: Engine) -> None:
    logits_SV = torch.randn(len(SAMPLINGS), VOCAB_SIZE, generator=torch.Generator().manual_seed(2))

    def sequences() -> list[Any]:
        forms = [form, None] * len(SAMPLINGS)
        return [
            after(engine, (1, 2, 3), sampling, logprobs=2, form=each)
            for sampling, each in zip(SAMPLINGS, forms, strict=False)
        ]

    together, alone = sequences(), sequences()
    for _ in range(10):
        tokens = engine.sample(logits_SV, together)
        assert tokens == [engine.sample(logits_SV[row : row + 1], [sequence])[0] for row, sequence in enumerate(alone)]
        for sequence, token in zip([*together, *alone], tokens * 2, strict=True):
            sequence.append(token)
    assert [each.logprobs for each in together] == [each.logprobs for each in alone]

"""Whatever runs together, in whatever pieces and with whatever interruptions: each greedy answer is PEFT's own.

The traffic is drawn by hypothesis, the same in every run. No reference is a near tie, which is itself a test here; so
a token that differs is wrong, and not rounded otherwise.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from brie_server.engine.torch.prefix import BLOCK
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence
from server.engine.asking import load_kind, make_runner, prompt
from server.engine.tiny_models import FAMILIES, Reference, TinyModel, token_ids

CONTEXT = 128
MOST_NEW = 16
ASKERS = (None, "plain", "rslora", "all-linear", "q-and-v")
"""The base, and adapters of ranks 4, 9, 5 and 3, which share two pools."""
_LONG = token_ids(2 * BLOCK + 15)
PROMPTS = (token_ids(1, 1), token_ids(17, 2), _LONG[: BLOCK + 1], _LONG)
"""The last two begin alike, so that blocks that one keeps serve the other."""
_ROUNDING = 1e-4
"""Eight times the most by which the engine's logits and transformers' differ in float32 on these models (1.2e-5)."""


@dataclass(frozen=True)
class Ask:
    """One request of a traffic."""

    arrival: int
    """The step before which it comes."""
    prompt: int
    asker: str | None
    max_tokens: int


@dataclass(frozen=True)
class Subject:
    """One model with its adapters, on both sides."""

    runner: Runner
    references: dict[tuple[int, str | None], Reference]

    def expected(self, ask: Ask) -> list[int]:
        return list(self.references[ask.prompt, ask.asker].tokens[: ask.max_tokens])


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tiny_models: dict[str, TinyModel]) -> Subject:
    model = tiny_models[request.param]
    runner = make_runner(model.base)
    references: dict[tuple[int, str | None], Reference] = {}
    for asker in ASKERS:
        if asker:
            load_kind(runner, model, asker)
        answers = model.references(PROMPTS, MOST_NEW, model.adapter(asker) if asker else None)
        references |= {(index, asker): answer for index, answer in enumerate(answers)}
    return Subject(runner, references)


def test_no_reference_is_a_near_tie(subject: Subject) -> None:
    smallest = min(reference.margin for reference in subject.references.values())
    print(f"smallest margin {smallest:.4f}")
    assert smallest > _ROUNDING


asks = st.builds(
    Ask,
    arrival=st.integers(0, 30),
    prompt=st.integers(0, len(PROMPTS) - 1),
    asker=st.sampled_from(ASKERS),
    max_tokens=st.integers(1, MOST_NEW),
)
limits = st.builds(
    Limits,
    max_rows=st.sampled_from([1, 3, 8, 40]),
    chunk_size=st.sampled_from([5, 16, 33, 256]),
    smallest_capacity=st.sampled_from([16, 64]),
    max_blocks=st.sampled_from([0, 2, 100]),
)


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=12,
    phases=[Phase.generate],  # shrinking a failure takes longer than the timeout
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(asked=st.lists(asks, min_size=1, max_size=40), limits=limits, budget=st.sampled_from([CONTEXT, 300, 4096]))
def test_any_traffic_is_answered_as_by_transformers_and_peft(
    subject: Subject, asked: list[Ask], limits: Limits, budget: int
) -> None:
    subject.runner.reset()
    scheduler = Scheduler(limits, token_budget=budget, context_length=CONTEXT)
    assert answers(scheduler, subject.runner, asked) == [subject.expected(ask) for ask in asked]


def answers(scheduler: Scheduler, runner: Runner, asked: SequenceOf[Ask]) -> list[list[int]]:
    """Each arrives when it says, or when nothing else is left to do."""
    sequences = [Sequence(prompt(PROMPTS[ask.prompt], ask.max_tokens, adapter=ask.asker)) for ask in asked]
    coming = sorted(range(len(asked)), key=lambda index: asked[index].arrival)
    now = 0
    while coming or not scheduler.is_idle:
        while coming and (asked[coming[0]].arrival <= now or scheduler.is_idle):
            scheduler.add(sequences[coming.pop(0)])
        step = scheduler.plan()
        assert step is not None
        scheduler.advance(step, runner.run(step))
        now += 1
    return [each.token_ids[len(each.prompt.token_ids) :] for each in sequences]

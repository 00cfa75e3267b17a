"""The torch engine's logprobs of prompts against transformers: however they are cut, cached, batched or preempted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from brie_server.engine.base import Logprobs, Sampling
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence as Asked
from server.engine.asking import prompt, tokens
from server.engine.tiny_models import TinyModel, token_ids

Start = Callable[..., TorchEngine]


def check(
    found: Sequence[Logprobs | None] | None, model: TinyModel, ids: tuple[int, ...], adapter: Path | None = None
) -> None:
    """That `found` are transformers' logprobs of `ids`, each with two alternatives."""
    expected = model.logprobs(ids, adapter)
    assert found is not None
    assert len(found) == len(ids)
    assert found[0] is None
    for position, logprobs in enumerate(found[1:]):
        assert logprobs is not None
        row, token = expected[position], ids[position + 1]
        assert logprobs.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert logprobs.rank == int((row > row[token]).sum()) + 1
        assert [token for token, _ in logprobs.top] == row.topk(2).indices.tolist()
        assert [value for _, value in logprobs.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
async def test_each_token_of_a_prompt_has_its_own(chunk_size: int, start: Start, tiny_model: TinyModel) -> None:
    engine = start(tiny_model.base, chunk_size=chunk_size)
    told = await tokens(engine, prompt(token_ids(50), 3, prompt_logprobs=2))
    check(told[0].prompt_logprobs, tiny_model, token_ids(50))
    assert [token.prompt_logprobs for token in told[1:]] == [None, None]


async def test_a_prompt_of_one_token_has_none(start: Start, tiny_model: TinyModel) -> None:
    told = await tokens(start(tiny_model.base), prompt((5,), 1, prompt_logprobs=2))
    assert told[0].prompt_logprobs == (None,)


async def test_what_is_kept_of_earlier_prompts_hides_none(start: Start, tiny_model: TinyModel) -> None:
    engine = start(tiny_model.base)
    await tokens(engine, prompt(token_ids(100), 1))
    told = await tokens(engine, prompt(token_ids(100), 1, prompt_logprobs=2))
    check(told[0].prompt_logprobs, tiny_model, token_ids(100))


async def test_an_adapter_has_its_own(start: Start, tiny_model: TinyModel) -> None:
    engine, folder = start(tiny_model.base), tiny_model.adapter("all-linear")
    await engine.load_adapter("a", folder)
    told = await tokens(engine, prompt(token_ids(40), 1, adapter="a", prompt_logprobs=2))
    check(told[0].prompt_logprobs, tiny_model, token_ids(40), folder)


def drive(scheduler: Scheduler, runner: Runner, asked: list[Asked]) -> int:
    """Run them to their ends; returns how many began again after some of their logprobs were known."""
    restarts = 0
    for sequence in asked:
        scheduler.add(sequence)
    while step := scheduler.plan():
        restarts += sum(chunk.start == 0 and len(chunk.sequence.prompt_logprobs) > 1 for chunk in step.chunks)
        scheduler.advance(step, runner.run(step))
    return restarts


@pytest.mark.parametrize(
    ("chunk_size", "sizes"),
    [(24, [(30, 120), (9, 140), (20, 120)]), (1, [(60, 150), (110, 10)])],
    ids=["three together, preempted as they answer", "preempted before all of its prompt is computed"],
)
def test_prompts_side_by_side_and_preempted_ones_have_theirs_once(
    chunk_size: int, sizes: list[tuple[int, int]], runner: Runner, tiny_model: TinyModel
) -> None:
    limits = Limits(chunk_size=chunk_size, smallest_capacity=16, max_blocks=0)
    scheduler = Scheduler(limits, token_budget=256, context_length=256)
    asked = [Asked(prompt(token_ids(length, length), new, prompt_logprobs=2)) for length, new in sizes]
    asked.append(Asked(prompt(token_ids(12), 90, sampling=Sampling(seed=1))))
    assert drive(scheduler, runner, asked) > 0
    for sequence, (length, _) in zip(asked, sizes, strict=False):
        check(sequence.prompt_logprobs, tiny_model, token_ids(length, length))


def test_no_more_logits_than_are_asked_for_are_computed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    logits = runner._model.logits

    def counted(wanted: torch.Tensor) -> torch.Tensor:
        rows.append(len(wanted))
        return logits(wanted)

    monkeypatch.setattr(runner._model, "logits", counted)
    scheduler = Scheduler(Limits(chunk_size=16), token_budget=1024, context_length=256)
    drive(scheduler, runner, [Asked(prompt(token_ids(40), 2)), Asked(prompt(token_ids(20), 2, prompt_logprobs=0))])
    assert max(rows) <= 16 + 1
    assert sum(rows) == 2 * 2 + 19

"""The torch engine's thread: aborts, failures, traffic. The arithmetic is tested elsewhere."""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import pytest
import torch

from brie_core.errors import EngineFailure, NotReady, Overloaded
from brie_server.engine.torch.batch import Batch
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.lora_pool import LoraBatch
from brie_server.engine.torch.model import Decoder
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.step import Rectangle
from server.engine.asking import answer, answers, prompt
from server.engine.tiny_models import TinyModel, token_ids

Start = Callable[..., TorchEngine]
Forward = Callable[[Decoder, Batch, Cache, LoraBatch | None], torch.Tensor]
ASKED = token_ids(20)


def scheduler(engine: TorchEngine) -> Scheduler:
    return cast(Scheduler, engine._thread._scheduler)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, but not for ever."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the other thread signals nothing
            await asyncio.sleep(0.002)


def fail_once(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[torch.Tensor], torch.Tensor], at: int) -> None:
    """Have step number `at` from now on go through `spoil`."""
    forward: Forward = Decoder.forward
    steps = iter(range(1_000_000))

    def failing(self: Decoder, batch: Batch, cache: Cache, lora: LoraBatch | None) -> torch.Tensor:
        logits = forward(self, batch, cache, lora)
        return spoil(logits) if next(steps) == at else logits

    monkeypatch.setattr(Decoder, "forward", failing)


def out_of_memory(_logits: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("out of memory at /secret/path")


def no_number_in_the_first_row(logits: torch.Tensor) -> torch.Tensor:
    logits[0] = float("nan")
    return logits


async def test_closing_the_iterator_frees_the_row(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base)
    stream = engine.generate(prompt(ASKED, 200))
    await anext(stream)
    await stream.aclose()
    await until(lambda: scheduler(engine).is_idle)


async def test_a_cancelled_task_frees_the_row(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base)
    task = asyncio.create_task(answer(engine, prompt(ASKED, 230)))
    await until(lambda: scheduler(engine).num_running == 1)
    task.cancel()
    await until(lambda: scheduler(engine).is_idle)


async def test_a_request_that_waits_can_be_aborted(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base, max_rows=1)
    first = asyncio.create_task(answer(engine, prompt(ASKED, 230)))
    second = asyncio.create_task(answer(engine, prompt(ASKED, 230)))
    await until(lambda: scheduler(engine).num_waiting == 1)
    second.cancel()
    assert len(await first) == 230
    assert scheduler(engine).is_idle


async def test_a_full_queue_turns_requests_away_and_recovers(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base, max_rows=1, max_waiting=1)
    several = (answer(engine, prompt(ASKED, 100)) for _ in range(4))
    results = await asyncio.gather(*several, return_exceptions=True)
    assert [type(result) for result in results] == [list, list, Overloaded, Overloaded]
    assert len(await answer(engine, prompt(ASKED, 5))) == 5


async def test_a_failed_step_fails_its_requests_and_not_the_engine(
    tiny_model: TinyModel, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(tiny_model.base)
    whole = await answer(engine, prompt(ASKED, 10))
    fail_once(monkeypatch, out_of_memory, at=4)
    with pytest.raises(EngineFailure) as failure:
        await answer(engine, prompt(ASKED, 10))
    assert "secret" not in failure.value.message
    assert "secret" in caplog.text
    assert await answer(engine, prompt(ASKED, 10)) == whole


async def test_a_failed_step_spares_those_that_were_not_in_it(
    tiny_model: TinyModel, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(tiny_model.base, chunk_size=len(ASKED))
    whole = await answer(engine, prompt(ASKED, 10))
    fail_once(monkeypatch, out_of_memory, at=0)
    both = (answer(engine, prompt(ASKED, 10)) for _ in range(2))
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, EngineFailure)
    assert second == whole
    assert caplog.record_tuples[0][1] == logging.ERROR


async def test_a_cache_that_cannot_grow_fails_who_grew_and_serves_who_waits(
    tiny_model: TinyModel, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(tiny_model.base, max_rows=1, smallest_capacity=32)
    whole = await answer(engine, prompt(ASKED, 5))
    copy, attempts = Cache._copied, iter(range(1_000_000))

    def failing(self: Cache, old: torch.Tensor, rectangle: Rectangle, extent: Rectangle) -> torch.Tensor:
        return out_of_memory(old) if next(attempts) == 3 else copy(self, old, rectangle, extent)

    monkeypatch.setattr(Cache, "_copied", failing)
    both = (answer(engine, prompt(ASKED, max_tokens)) for max_tokens in (50, 5))
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, EngineFailure)
    assert second == whole
    assert caplog.records


async def test_logits_that_are_no_numbers_fail_one_request_only(
    tiny_model: TinyModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(tiny_model.base)
    whole = await answer(engine, prompt(ASKED, 10))
    fail_once(monkeypatch, no_number_in_the_first_row, at=5)
    both = (answer(engine, prompt(ASKED, 10)) for _ in range(2))
    first, second = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(first, EngineFailure)
    assert second == whole
    assert scheduler(engine).is_idle


async def test_adapters_come_and_go_under_traffic(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base, max_rows=4)
    await engine.load_adapter("steady", tiny_model.adapter("plain"))
    asked = [prompt(token_ids(10, n), 100, adapter="steady" if n % 2 else None) for n in range(8)]
    alone = [await answer(engine, each) for each in asked]
    traffic = asyncio.create_task(answers(engine, asked))
    for seed in range(3):
        await engine.load_adapter("passing", tiny_model.adapter("all-linear", seed))
        assert len(await answer(engine, prompt(ASKED, 3, adapter="passing"))) == 3
        await engine.unload_adapter("passing")
    assert await traffic == alone


async def test_unloading_an_adapter_in_use_fails_its_requests_and_no_others(
    tiny_model: TinyModel, start: Start
) -> None:
    engine = start(tiny_model.base)
    await engine.load_adapter("used", tiny_model.adapter("plain"))
    user, other = engine.generate(prompt(ASKED, 200, adapter="used")), engine.generate(prompt(ASKED, 200))
    await anext(user)
    await anext(other)
    await engine.unload_adapter("used")
    with pytest.raises(EngineFailure):
        [token async for token in user]
    assert len([token async for token in other]) == 199


async def test_a_cancelled_load_leaves_the_thread_alive(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base)
    for pause in (0, 0.001, 0.01):
        task = asyncio.create_task(engine.load_adapter("cancelled", tiny_model.adapter("plain")))
        await asyncio.sleep(pause)
        task.cancel()
    assert len(await answer(engine, prompt(ASKED, 5))) == 5


def test_several_event_loops_are_served_and_one_that_died_is_forgotten(
    tiny_model: TinyModel,
) -> None:
    engine = TorchEngine(tiny_model.base, torch.device("cpu"), torch.float32, Limits())

    async def begin() -> object:
        stream = engine.generate(prompt(ASKED, 230))
        await anext(stream)
        return stream

    dead = asyncio.new_event_loop()
    stream = dead.run_until_complete(begin())
    dead.close()
    assert len(asyncio.run(answer(engine, prompt(ASKED, 5)))) == 5
    asyncio.run(until(lambda: scheduler(engine).is_idle))
    asyncio.run(engine.aclose())
    assert stream


def cache_size(engine: TorchEngine) -> "asyncio.Future[int]":
    return asyncio.wrap_future(engine._thread.call(lambda runner: runner._cache.layer(0).numel()))


async def test_the_cache_is_given_back_when_idle_and_the_next_begins_small(
    tiny_model: TinyModel, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(tiny_model.base, smallest_capacity=16)
    await answers(engine, [prompt(ASKED, 5)] * 8)
    large = await cache_size(engine)
    monkeypatch.setattr("brie_server.engine.thread.PATIENCE_S", 0.0)
    await answer(engine, prompt(ASKED, 5))
    await until(lambda: engine._thread._runner is not None and not engine._thread._runner._cache.layer(0).numel())
    monkeypatch.setattr("brie_server.engine.thread.PATIENCE_S", 60.0)
    await answer(engine, prompt(ASKED, 5))
    assert 0 < await cache_size(engine) < large


async def test_a_budget_below_the_models_context_shortens_it(tiny_model: TinyModel, start: Start) -> None:
    engine = start(tiny_model.base, token_budget=100, smallest_capacity=16)
    assert engine.info().context_length == 100
    assert len(await answer(engine, prompt(ASKED, 80))) == 80


async def test_a_request_to_a_closed_engine_is_refused_before_anything_is_queued(
    tiny_model: TinyModel, start: Start
) -> None:
    engine = start(tiny_model.base)
    await engine.aclose()
    with pytest.raises(NotReady):
        await anext(engine.generate(prompt(ASKED, 5)))
    assert scheduler(engine).is_idle

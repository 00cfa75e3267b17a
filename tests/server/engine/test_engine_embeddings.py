"""The torch engine's embeddings against transformers' and PEFT's hidden states: however texts are cut and batched."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import AutoModel

from brie_core.errors import EngineFailure, Overloaded
from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import read_adapter
from brie_server.engine.base import Prompt, Sampling
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence as Asked
from brie_server.engine.torch.shapes import Shapes
from brie_server.engine.torch.step import Step
from server.engine.asking import GREEDY, answer, load, load_kind, make_runner, overflowing, prompt, tokens
from server.engine.tiny_models import FAMILIES, TinyModel, token_ids

Start = Callable[..., TorchEngine]
LENGTHS = (1, 7, 40, 200)


def check(found: Sequence[float] | None, expected: torch.Tensor) -> None:
    """That two vectors point the same way and are equally long."""
    assert found is not None
    told = torch.tensor(found)
    assert told.shape == expected.shape
    assert float(torch.cosine_similarity(told, expected, dim=0)) > 0.99999
    assert float((told - expected).abs().max()) < 1e-4


def text(ids: tuple[int, ...], adapter: str | None = None) -> Asked:
    return Asked(Prompt(token_ids=ids, max_tokens=0, stop_ids=frozenset(), sampling=GREEDY, adapter=adapter))


def drive(scheduler: Scheduler, runner: Runner, asked: Sequence[Asked]) -> tuple[dict[Asked, object], int]:
    """What each is told last, and how many began again after some of their tokens were computed."""
    told: dict[Asked, object] = {}
    started, restarts = set[Asked](), 0
    for sequence in asked:
        scheduler.add(sequence)
    while step := scheduler.plan():
        first = {chunk.sequence for chunk in step.chunks if chunk.start == 0}
        restarts += len(first & started)
        started |= first
        told |= scheduler.advance(step, runner.run(step))
    return told, restarts


@pytest.mark.parametrize("family", FAMILIES)
async def test_every_family_has_transformers_hidden_states(
    family: str, start: Start, tiny_models: dict[str, TinyModel]
) -> None:
    model = tiny_models[family]
    engine = start(model.base)
    assert engine.info().embedding_size == 32
    check(await engine.embed(token_ids(40)), model.embedding(token_ids(40)))


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
@pytest.mark.parametrize("length", LENGTHS)
async def test_a_text_is_the_mean_of_all_its_chunks(
    chunk_size: int, length: int, start: Start, tiny_model: TinyModel
) -> None:
    engine = start(tiny_model.base, chunk_size=chunk_size)
    check(await engine.embed(token_ids(length)), tiny_model.embedding(token_ids(length)))


@pytest.mark.parametrize("make", [{}, {"is_compiled": False}, {"shapes": Shapes(few=True)}], ids=str)
def test_texts_of_all_lengths_and_adapters_share_steps_with_answers(
    make: dict[str, object], tiny_model: TinyModel
) -> None:
    runner = make_runner(tiny_model.base, **make)  # type: ignore[arg-type]  # named above
    kinds = [None, load_kind(runner, tiny_model, "plain"), load_kind(runner, tiny_model, "rslora")]
    asked = {text(token_ids(length, length), kind): kind for length in LENGTHS for kind in kinds}
    streams = [Asked(prompt(token_ids(9), 30, adapter=kind)) for kind in kinds]
    scheduler = Scheduler(Limits(chunk_size=48), token_budget=4096, context_length=256)
    told, _ = drive(scheduler, runner, [*streams, *asked])
    for each, kind in asked.items():
        folder = tiny_model.adapter(kind) if kind else None
        check(told[each], tiny_model.embedding(each.prompt.token_ids, folder))  # type: ignore[arg-type]
    for each, kind in zip(streams, kinds, strict=True):
        expected = tiny_model.reference(token_ids(9), 30, tiny_model.adapter(kind) if kind else None)
        assert each.token_ids[9:] == expected


def test_a_text_that_was_preempted_is_summed_once(runner: Runner, tiny_model: TinyModel) -> None:
    scheduler = Scheduler(
        Limits(chunk_size=1, smallest_capacity=16, max_blocks=0), token_budget=256, context_length=256
    )
    stream, embedded = Asked(prompt(token_ids(60), 150)), text(token_ids(100))
    told, restarts = drive(scheduler, runner, [stream, embedded])
    assert restarts == 1
    check(told[embedded], tiny_model.embedding(token_ids(100)))  # type: ignore[arg-type]


async def test_nothing_is_kept_of_a_text_and_what_is_kept_of_prompts_hides_none_of_it(
    start: Start, tiny_model: TinyModel
) -> None:
    engine = start(tiny_model.base)
    await tokens(engine, prompt(token_ids(100), 1))
    check(await engine.embed(token_ids(100)), tiny_model.embedding(token_ids(100)))
    scheduler = Scheduler(Limits(), token_budget=4096, context_length=256)
    scheduler.add(text(token_ids(100)))
    step = scheduler.plan()
    assert step is not None
    assert (step.keeps, step.sampling) == ((), ())


def test_a_text_computes_no_logits(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, rows = runner._model.logits, list[int]()

    def counted(wanted: torch.Tensor) -> torch.Tensor:
        rows.append(len(wanted))
        return logits(wanted)

    monkeypatch.setattr(runner._model, "logits", counted)
    drive(Scheduler(Limits(chunk_size=16), token_budget=4096, context_length=256), runner, [text(token_ids(40))])
    assert rows == [0, 0, 0]


def test_numbers_that_are_not_finite_fail_their_own_text_alone(tiny_model: TinyModel) -> None:
    runner = make_runner(tiny_model.base)
    load(runner, "broken", overflowing(read_adapter(tiny_model.adapter("plain"), tiny_model.base.linear_modules)))
    sound, broken = text(token_ids(20)), text(token_ids(20), "broken")
    told, _ = drive(Scheduler(Limits(), token_budget=4096, context_length=256), runner, [broken, sound])
    assert told[broken] is None
    check(told[sound], tiny_model.embedding(token_ids(20)))  # type: ignore[arg-type]


async def test_an_embedding_that_is_not_finite_is_a_failure(
    start: Start, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(tiny_model.base)
    convert = engine._convert
    monkeypatch.setattr(engine, "_convert", lambda adapter: convert(overflowing(adapter)))
    await engine.load_adapter("broken", tiny_model.adapter("plain"))
    with pytest.raises(EngineFailure, match="finite"):
        await engine.embed(token_ids(5), "broken")


async def test_streams_beside_embeddings_go_on_as_they_would(start: Start, tiny_model: TinyModel) -> None:
    engine = start(tiny_model.base, chunk_size=16)
    stream = asyncio.ensure_future(answer(engine, prompt(token_ids(20), 100)))
    told = await asyncio.gather(*(engine.embed(token_ids(length, length)) for length in LENGTHS))
    assert not stream.done()
    assert await stream == tiny_model.reference(token_ids(20), 100)
    for length, each in zip(LENGTHS, told, strict=True):
        check(each, tiny_model.embedding(token_ids(length, length)))


async def test_who_gives_up_an_embedding_gives_its_place_to_the_next(
    start: Start, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Runner.run

    def slowly(runner: Runner, step: Step) -> list[int | None]:
        time.sleep(0.01)  # the answer must outlast what is asked beside it
        return run(runner, step)

    monkeypatch.setattr(Runner, "run", slowly)
    engine = start(tiny_model.base, max_rows=1, max_waiting=1)
    stream = engine.generate(prompt(token_ids(20), 230))
    await anext(stream)
    waiting = asyncio.ensure_future(engine.embed(token_ids(40)))
    await anext(stream)
    with pytest.raises(Overloaded):
        await engine.embed(token_ids(41))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    next_one = asyncio.ensure_future(engine.embed(token_ids(42)))
    await stream.aclose()
    check(await next_one, tiny_model.embedding(token_ids(42)))


async def test_the_default_model_embeds_as_transformers_does(start: Start, default_model: BaseModel) -> None:
    engine = start(default_model)
    judge = AutoModel.from_pretrained(default_model.folder, dtype=torch.float32)
    asked = [tuple(range(100, 100 + length)) for length in (1, 7, 200, 300)]
    stream = asyncio.ensure_future(answer(engine, prompt(asked[1], 12, sampling=Sampling(seed=1))))
    for ids, told in zip(asked, await asyncio.gather(*map(engine.embed, asked)), strict=True):
        with torch.no_grad():
            expected = judge(torch.tensor([ids])).last_hidden_state[0].mean(0)
        found = torch.tensor(told)
        assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.99999
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    await stream

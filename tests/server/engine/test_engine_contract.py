"""What every engine owes its callers. Each test runs on each engine; an engine joins by adding itself to ENGINES."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brie_core.errors import ContextLengthExceeded, InvalidAdapter, InvalidRequest, NotFound, NotReady
from brie_core.settings import Settings
from brie_core.weights.gguf_model import GgufModel
from brie_server.engine.base import Engine, EngineInfo, FinishReason, Sampling
from brie_server.engine.factory import create_engine
from server.engine.asking import answer, answers, prompt, tokens
from server.engine.tiny_models import CONTEXT_LENGTH, TinyModel, token_ids

ENGINES = ["torch", "llamacpp"]
ASKED = token_ids(20)


@pytest.fixture(params=ENGINES)
async def engine(
    request: pytest.FixtureRequest, tiny_model: TinyModel, tiny_gguf: GgufModel, tmp_path: Path
) -> AsyncIterator[Engine]:
    """An engine on the tiny llama, as the settings make it from what it reads."""
    settings = Settings(home=tmp_path, engine=request.param, device="cpu", dtype="float32")
    engine = create_engine(settings, tiny_gguf if request.param == "llamacpp" else tiny_model.base)
    yield engine
    await engine.aclose()


async def test_info_says_what_runs_where(engine: Engine) -> None:
    info = engine.info()
    assert isinstance(info, EngineInfo)
    assert (info.engine in ENGINES, info.context_length) == (True, CONTEXT_LENGTH)
    assert info.max_batch >= 1


async def test_an_answer_has_as_many_tokens_as_asked_for(engine: Engine) -> None:
    answered = await tokens(engine, prompt(ASKED, 12))
    assert [token.finish for token in answered] == [None] * 11 + [FinishReason.LENGTH]


async def test_a_stop_token_ends_the_answer_and_is_delivered(engine: Engine) -> None:
    whole = await answer(engine, prompt(ASKED, 12))
    stopped = await tokens(engine, prompt(ASKED, 12, stop_ids=frozenset({whole[4]})))
    assert [token.id for token in stopped] == whole[: whole.index(whole[4]) + 1]
    assert stopped[-1].finish is FinishReason.STOP


async def test_the_whole_context_can_be_used(engine: Engine) -> None:
    answered = await tokens(engine, prompt(token_ids(CONTEXT_LENGTH - 1), 1))
    assert [token.finish for token in answered] == [FinishReason.LENGTH]


async def test_a_greedy_answer_repeats(engine: Engine) -> None:
    asked = prompt(ASKED, 12)
    assert await answer(engine, asked) == await answer(engine, asked)


async def test_a_seeded_answer_repeats_among_others(engine: Engine) -> None:
    seeded = prompt(ASKED, 12, sampling=Sampling(seed=3))
    others = [prompt(token_ids(n), 20, sampling=Sampling()) for n in (3, 30)]
    alone = await answer(engine, seeded)
    assert (await answers(engine, [*others, seeded]))[-1] == alone


async def test_more_requests_than_rows_are_all_answered(engine: Engine) -> None:
    asked = [prompt(token_ids(5, seed), 6) for seed in range(engine.info().max_batch + 8)]
    assert [len(each) for each in await answers(engine, asked)] == [6] * len(asked)


@pytest.mark.parametrize("length", [CONTEXT_LENGTH, CONTEXT_LENGTH - 9])
async def test_more_than_the_context_is_refused(engine: Engine, length: int) -> None:
    with pytest.raises(ContextLengthExceeded):
        await answer(engine, prompt(token_ids(length), 10))


@pytest.mark.parametrize("wrong", [prompt((), 5), prompt(ASKED, 0), prompt((1, -1), 5), prompt((1, 10**6), 5)])
async def test_a_prompt_that_makes_no_sense_is_refused(engine: Engine, wrong: prompt) -> None:  # type: ignore[valid-type]
    with pytest.raises(InvalidRequest):
        await answer(engine, wrong)


async def test_a_loaded_adapter_answers_and_the_base_stays_itself(engine: Engine, tiny_model: TinyModel) -> None:
    before = await answer(engine, prompt(ASKED, 12))
    assert await engine.load_adapter("first", tiny_model.adapter("all-linear")) > 0
    assert await answer(engine, prompt(ASKED, 12, adapter="first")) != before
    assert await answer(engine, prompt(ASKED, 12)) == before


async def test_loading_twice_is_one_load(engine: Engine, tiny_model: TinyModel) -> None:
    folder = tiny_model.adapter("plain")
    sizes = await asyncio.gather(*(engine.load_adapter("same", folder) for _ in range(4)))
    assert len(set(sizes)) == 1
    assert await engine.load_adapter("same", folder) == sizes[0]


async def test_an_unknown_adapter_is_an_error_and_never_the_base(engine: Engine) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await answer(engine, prompt(ASKED, 5, adapter="nobody"))


async def test_an_unloaded_adapter_is_unknown(engine: Engine, tiny_model: TinyModel) -> None:
    await engine.load_adapter("gone", tiny_model.adapter("plain"))
    await engine.unload_adapter("gone")
    with pytest.raises(NotFound, match="gone"):
        await answer(engine, prompt(ASKED, 5, adapter="gone"))


async def test_unloading_what_is_not_loaded_is_no_error(engine: Engine) -> None:
    await engine.unload_adapter("nobody")


async def test_a_digest_can_be_loaded_again(engine: Engine, tiny_model: TinyModel) -> None:
    await engine.load_adapter("again", tiny_model.adapter("plain"))
    first = await answer(engine, prompt(ASKED, 12, adapter="again"))
    await engine.unload_adapter("again")
    await engine.load_adapter("again", tiny_model.adapter("plain", seed=2))
    assert await answer(engine, prompt(ASKED, 12, adapter="again")) != first


async def test_a_refused_adapter_leaves_the_engine_as_it_was(
    engine: Engine, tiny_model: TinyModel, broken_folder: Path
) -> None:
    await engine.load_adapter("sound", tiny_model.adapter("plain"))
    before = await answer(engine, prompt(ASKED, 12, adapter="sound"))
    with pytest.raises(InvalidAdapter):
        await engine.load_adapter("broken", broken_folder)
    with pytest.raises(NotFound):
        await answer(engine, prompt(ASKED, 5, adapter="broken"))
    assert await answer(engine, prompt(ASKED, 12, adapter="sound")) == before


async def test_an_adapter_of_another_base_is_refused(engine: Engine, tiny_models: dict[str, TinyModel]) -> None:
    with pytest.raises(InvalidAdapter):
        await engine.load_adapter("foreign", tiny_models["qwen3"].adapter("plain"))


async def test_closing_the_iterator_ends_the_request(engine: Engine) -> None:
    stream = engine.generate(prompt(ASKED, 200))
    await anext(stream)
    await stream.aclose()
    assert len(await answer(engine, prompt(ASKED, 5))) == 5


async def test_after_closing_there_are_no_answers(engine: Engine, tiny_model: TinyModel) -> None:
    await engine.aclose()
    with pytest.raises(NotReady):
        await answer(engine, prompt(ASKED, 5))
    with pytest.raises(NotReady):
        await engine.load_adapter("late", tiny_model.adapter("plain"))


async def test_closing_ends_the_answers_in_progress(engine: Engine) -> None:
    stream = engine.generate(prompt(ASKED, 200))
    await anext(stream)
    await engine.aclose()
    with pytest.raises(NotReady):
        async for _ in stream:
            pass
    await engine.aclose()

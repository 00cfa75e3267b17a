"""What every engine owes its callers. Each test runs on each engine; an engine joins by adding itself to ENGINES."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from brie_core.errors import (
    ContextLengthExceeded,
    EngineFailure,
    InvalidAdapter,
    InvalidRequest,
    NotFound,
    NotReady,
)
from brie_core.settings import Settings
from brie_core.weights.gguf_model import GgufModel
from brie_server.engine.base import Engine, EngineInfo, FinishReason, Prompt, Sampling
from brie_server.engine.factory import create_engine
from server.engine.asking import Among, answer, answers, prompt, tokens
from server.engine.tiny_models import CONTEXT_LENGTH, VOCAB_SIZE, TinyModel, token_ids

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


@pytest.mark.parametrize("how", [{"repetition_penalty": 1.8}, {"presence_penalty": 2.0, "frequency_penalty": 1.5}])
async def test_penalties_change_a_greedy_answer_as_they_would_change_transformers(
    how: dict[str, Any], engine: Engine, tiny_model: TinyModel
) -> None:
    ids, sampling = list(ASKED), Sampling(temperature=0, **how)
    for token in await answer(engine, prompt(ASKED, 12, sampling=sampling)):
        scores = tiny_model.logits(tuple(ids))[-1:]
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(torch.tensor([ids]), scores)[0]
        counts = torch.bincount(torch.tensor(ids[len(ASKED) :], dtype=torch.long), minlength=len(scores))
        scores = scores - counts * sampling.frequency_penalty - (counts > 0) * sampling.presence_penalty
        assert token == int(scores.argmax())
        ids.append(token)


async def test_a_bias_forbids_and_forces(engine: Engine) -> None:
    first = (await answer(engine, prompt(ASKED, 1)))[0]
    without = Sampling(temperature=0, logit_bias=((first, -100.0),))
    assert first not in await answer(engine, prompt(ASKED, 12, sampling=without))
    only = Sampling(seed=1, logit_bias=((17, 100.0),))
    assert await answer(engine, prompt(ASKED, 12, sampling=only)) == [17] * 12


async def test_no_stop_token_is_sampled_before_min_tokens(engine: Engine) -> None:
    stops = frozenset(await answer(engine, prompt(ASKED, 12)))
    assert len(await answer(engine, prompt(ASKED, 30, stop_ids=stops))) == 1
    answered = await answer(engine, prompt(ASKED, 30, stop_ids=stops, min_tokens=7))
    assert len(answered) > 7
    assert not stops & set(answered[:7])


async def test_an_answer_has_its_form_and_ends_where_nothing_may_follow(engine: Engine) -> None:
    form = Among(frozenset(range(0, VOCAB_SIZE, 5)), 6, 6)
    asked = [prompt(ASKED, 30, form=form, sampling=Sampling(seed=seed), min_tokens=9) for seed in range(3)]
    for answered in await asyncio.gather(*(tokens(engine, each) for each in asked)):
        assert form.ids.issuperset(token.id for token in answered)
        assert [token.completes for token in answered] == [False] * 5 + [True]
        assert answered[-1].finish is FinishReason.STOP
        assert all(token.is_text for token in answered)


async def test_a_stop_token_is_sampled_only_where_the_form_is_complete(engine: Engine) -> None:
    eager = Sampling(temperature=0, logit_bias=((7, 100.0),))
    form = Among(frozenset(range(VOCAB_SIZE)), 4)
    answered = await tokens(engine, prompt(ASKED, 30, form=form, sampling=eager, stop_ids=frozenset({7})))
    assert [token.id == 7 for token in answered] == [False] * 4 + [True]
    assert (answered[-1].finish, answered[-1].completes, answered[-1].is_text) == (FinishReason.STOP, False, False)


async def test_an_answer_that_is_too_long_for_its_form_says_so(engine: Engine) -> None:
    form = Among(frozenset(range(VOCAB_SIZE)), 9, 9)
    assert (await tokens(engine, prompt(ASKED, 8, form=form)))[-1].finish is FinishReason.LENGTH
    assert (await tokens(engine, prompt(ASKED, 9, form=form)))[-1].finish is FinishReason.STOP


async def test_a_form_that_leaves_no_token_fails_its_request_alone(engine: Engine) -> None:
    beside = asyncio.ensure_future(answer(engine, prompt(ASKED, 12)))
    with pytest.raises(EngineFailure, match="form"):
        await answer(engine, prompt(ASKED, 12, form=Among(frozenset({3}), 2), stop_ids=frozenset({3})))
    assert await beside == await answer(engine, prompt(ASKED, 12))


async def test_logprobs_are_the_models_own(engine: Engine, tiny_model: TinyModel) -> None:
    noise = {"torch": 1e-4, "llamacpp": 0.02}[engine.info().engine]  # llama.cpp's own arithmetic, in all logits alike
    hot = Sampling(seed=4, temperature=2.0, top_k=50, repetition_penalty=1.2)
    answered = await tokens(engine, prompt(ASKED, 8, sampling=hot, logprobs=3))
    expected = tiny_model.logprobs((*ASKED, *(token.id for token in answered)))[len(ASKED) - 1 :]
    for token, row in zip(answered, expected, strict=False):
        assert token.logprobs is not None
        assert token.logprobs.logprob == pytest.approx(float(row[token.id]), abs=noise)
        assert token.logprobs.rank == int((row > row[token.id]).sum()) + 1
        assert [other for other, _ in token.logprobs.top] == row.topk(3).indices.tolist()
        assert [value for _, value in token.logprobs.top] == pytest.approx(row.topk(3).values.tolist(), abs=noise)


async def test_asking_for_logprobs_changes_no_answer(engine: Engine) -> None:
    plain = prompt(ASKED, 12, sampling=Sampling(seed=3))
    asking = prompt(ASKED, 12, sampling=Sampling(seed=3), logprobs=2)
    assert await answer(engine, asking) == await answer(engine, plain)
    assert {token.logprobs for token in await tokens(engine, plain)} == {None}


async def test_the_logprobs_of_a_prompt_come_with_the_first_token_or_are_refused_by_name(engine: Engine) -> None:
    asked = prompt(ASKED, 3, prompt_logprobs=1)
    if engine.info().engine == "llamacpp":
        with pytest.raises(InvalidRequest) as caught:
            await tokens(engine, asked)
        assert caught.value.param == "prompt_logprobs"
    else:
        told = [token.prompt_logprobs for token in await tokens(engine, asked)]
        assert [None if each is None else len(each) for each in told] == [len(ASKED), None, None]


async def test_different_samplings_answer_together_as_they_do_alone(engine: Engine) -> None:
    samplings = [
        Sampling(temperature=0),
        Sampling(seed=1, top_k=5),
        Sampling(seed=2, min_p=0.1, temperature=1.5),
        Sampling(seed=3, top_p=0.7, frequency_penalty=1.0),
        Sampling(seed=4, logit_bias=((5, 3.0),), repetition_penalty=1.3),
    ]
    asked = [prompt(ASKED, 12, sampling=sampling) for sampling in samplings]
    asked += [prompt(ASKED, 12, sampling=sampling, form=Among(frozenset({3, 9, 27}), 5)) for sampling in samplings[:2]]
    alone = [await answer(engine, each) for each in asked]
    assert await answers(engine, asked) == alone
    assert len({tuple(each) for each in alone}) == len(alone)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        (prompt((10**6,), 5), "prompt"),
        (prompt(ASKED, 5, sampling=Sampling(logit_bias=((10**6, 1.0),))), "logit_bias"),
        (prompt(ASKED, 5, sampling=Sampling(logit_bias=((-1, 1.0),))), "logit_bias"),
        (prompt(ASKED, 5, min_tokens=6), "min_tokens"),
    ],
)
async def test_what_cannot_be_sampled_is_refused_by_name(engine: Engine, wrong: Prompt, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await answer(engine, wrong)
    assert caught.value.param == param


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


async def test_a_text_is_embedded_or_refused_by_name(engine: Engine, tiny_model: TinyModel) -> None:
    if engine.info().embedding_size is None:
        with pytest.raises(InvalidRequest) as caught:
            await engine.embed(ASKED)
        assert caught.value.code == "embeddings_unsupported"
        return
    folder = tiny_model.adapter("all-linear")
    await engine.load_adapter("first", folder)
    for adapter, expected in ((None, tiny_model.embedding(ASKED)), ("first", tiny_model.embedding(ASKED, folder))):
        told = torch.tensor(await engine.embed(ASKED, adapter))
        assert len(told) == engine.info().embedding_size
        assert float((told - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("ids", "adapter", "error"),
    [
        ((), None, InvalidRequest),
        ((1, -1), None, InvalidRequest),
        ((1, VOCAB_SIZE), None, InvalidRequest),
        (token_ids(CONTEXT_LENGTH + 1), None, ContextLengthExceeded),
        (ASKED, "nobody", NotFound),
    ],
)
async def test_a_text_that_cannot_be_embedded_is_refused(
    ids: tuple[int, ...], adapter: str | None, error: type[Exception], engine: Engine
) -> None:
    if engine.info().embedding_size is not None:
        with pytest.raises(error):
            await engine.embed(ids, adapter)
        assert len(await engine.embed(token_ids(CONTEXT_LENGTH))) == engine.info().embedding_size


async def test_closing_the_iterator_ends_the_request(engine: Engine) -> None:
    stream = engine.generate(prompt(ASKED, 200))
    await anext(stream)
    await stream.aclose()
    assert len(await answer(engine, prompt(ASKED, 5))) == 5


async def test_after_closing_there_are_no_answers(engine: Engine, tiny_model: TinyModel) -> None:
    await engine.aclose()
    with pytest.raises(NotReady):
        await answer(engine, prompt(ASKED, 5))
    if engine.info().embedding_size is not None:
        with pytest.raises(NotReady):
            await engine.embed(ASKED)
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

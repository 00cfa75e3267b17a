"""Greedy answers are those of transformers, for every family and in whatever pieces the prompt is computed."""

import pytest

from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import drive, load_kind, make_runner, prompt
from server.engine.tiny_models import ADAPTERS, CONTEXT_LENGTH, FAMILIES, WINDOW, TinyModel, token_ids

LONG, NEW = 3 * WINDOW + 2, 40


def a_scheduler(chunk_size: int = 16) -> Scheduler:
    return Scheduler(Limits(chunk_size=chunk_size), token_budget=1024, context_length=CONTEXT_LENGTH)


@pytest.fixture(scope="module", params=["compiled", "torch"])
def runners(request: pytest.FixtureRequest, tiny_models: dict[str, TinyModel]) -> dict[str, Runner]:
    is_compiled = request.param == "compiled"
    return {family: make_runner(model.base, is_compiled=is_compiled) for family, model in tiny_models.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, LONG])
def test_greedy_answers_are_those_of_transformers(
    tiny_models: dict[str, TinyModel], runners: dict[str, Runner], family: str, length: int
) -> None:
    asked = token_ids(length)
    (answer,), _ = drive(a_scheduler(), runners[family], [prompt(asked, NEW)])
    assert answer == tiny_models[family].reference(asked, NEW)
    assert len(set(answer)) > 8  # a model that repeats itself would prove little


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_answers_as_in_peft(
    tiny_models: dict[str, TinyModel], runners: dict[str, Runner], family: str, kind: str
) -> None:
    model, runner, asked = tiny_models[family], runners[family], token_ids(LONG)
    load_kind(runner, model, kind)
    base, adapted = drive(a_scheduler(), runner, [prompt(asked, 25), prompt(asked, 25, adapter=kind)])[0]
    assert adapted == model.reference(asked, 25, model.adapter(kind))
    assert base != adapted


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in ("qwen2-window", "mistral", "gemma3")])
@pytest.mark.parametrize("chunk_size", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, LONG])
def test_a_prompt_in_chunks_crosses_the_windows_edge(
    tiny_models: dict[str, TinyModel], runners: dict[str, Runner], family: str, chunk_size: int
) -> None:
    asked = [token_ids(length) for length in (WINDOW - 1, WINDOW, WINDOW + 1, LONG)]
    answers, _ = drive(a_scheduler(chunk_size), runners[family], [prompt(each, 6) for each in asked])
    assert answers == [tiny_models[family].reference(each, 6) for each in asked]

"""Greedy answers are those of transformers, for every family and in whatever pieces the prompt is computed."""

import pytest

from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import drive, make_runner, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, FAMILIES, TinyModel, token_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 50])
def test_greedy_answers_are_those_of_transformers(tiny_models: dict[str, TinyModel], family: str, length: int) -> None:
    model, asked = tiny_models[family], token_ids(length)
    scheduler = Scheduler(Limits(chunk_size=16), token_budget=1024, context_length=CONTEXT_LENGTH)
    (answer,), _ = drive(scheduler, make_runner(model.base), [prompt(asked, 40)])
    assert answer == model.reference(asked, 40)
    assert len(set(answer)) > 8  # a model that repeats itself would prove little

"""Base and adapters of the real model, mixed in one batch, answer as transformers and PEFT do in float32."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from brie_core.settings import Settings
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_server.engine.base import Engine, Prompt, Sampling
from brie_server.engine.factory import create_engine
from tiny_models import write_lora

NUM_TOKENS = 24
RANKS = {"narrow": 3, "middle": 8, "wide": 32}
TOPICS = ("rain", "bread", "the moon", "a lost key")
ASKED = [(name, f"Tell me about {topic}.") for topic in TOPICS for name in (None, *RANKS)][:12]

Asked = tuple[str | None, tuple[int, ...]]


@pytest.fixture(scope="module")
def adapters(default_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: write_lora(folder / name, default_model.folder, seed=rank, r=rank, lora_alpha=2 * rank)
        for name, rank in RANKS.items()
    }


@pytest.fixture(scope="module")
def asked(default_model: BaseModel) -> list[Asked]:
    tokenizer = Tokenizer(default_model.folder)
    turns = [(name, [{"role": "user", "content": question}]) for name, question in ASKED]
    return [(name, tuple(tokenizer.encode(tokenizer.render(turn, add_generation_prompt=True)))) for name, turn in turns]


@pytest.fixture(scope="module")
def expected(default_model: BaseModel, adapters: dict[str, Path], asked: list[Asked]) -> list[list[int]]:
    """One after another, never padded."""
    base = AutoModelForCausalLM.from_pretrained(default_model.folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, next(iter(adapters.values())), adapter_name=next(iter(adapters)))
    for name, folder in list(adapters.items())[1:]:
        model.load_adapter(folder, adapter_name=name)
    return [greedy(model, name, token_ids) for name, token_ids in asked]


def greedy(model: PeftModel, name: str | None, token_ids: tuple[int, ...]) -> list[int]:
    input_ids = torch.tensor([token_ids])
    options = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "max_new_tokens": NUM_TOKENS}
    with torch.inference_mode():
        if name is None:
            with model.disable_adapter():
                output = model.generate(**options, do_sample=False, eos_token_id=None, pad_token_id=0)
        else:
            model.set_adapter(name)
            output = model.generate(**options, do_sample=False, eos_token_id=None, pad_token_id=0)
    generated: list[int] = output[0, len(token_ids) :].tolist()
    return generated


@pytest.fixture
async def engine(default_model: BaseModel, adapters: dict[str, Path], tmp_path: Path) -> Engine:
    engine = create_engine(Settings(home=tmp_path, dtype="float32", device="cpu"), default_model)
    for name, folder in adapters.items():
        await engine.load_adapter(name, folder)
    return engine


async def answered(engine: Engine, name: str | None, token_ids: tuple[int, ...]) -> list[int]:
    sampling = Sampling(temperature=0)
    request = Prompt(token_ids=token_ids, max_tokens=NUM_TOKENS, stop_ids=frozenset(), sampling=sampling, adapter=name)
    return [token.id async for token in engine.generate(request)]


async def in_batches(engine: Engine, asked: Sequence[Asked], size: int) -> list[list[int]]:
    answers: list[list[int]] = []
    for start in range(0, len(asked), size):
        answers += await asyncio.gather(*(answered(engine, *each) for each in asked[start : start + size]))
    return answers


async def test_every_batch_size_answers_as_transformers_and_peft(
    engine: Engine, asked: list[Asked], expected: list[list[int]]
) -> None:
    try:
        for size in (1, 5, 12):
            assert await in_batches(engine, asked, size) == expected, f"in batches of {size}"
    finally:
        await engine.aclose()
    by_name = {
        name: [answer for (who, _), answer in zip(asked, expected, strict=True) if who == name] for name in RANKS
    }
    assert all(answers != by_name["narrow"] for name, answers in by_name.items() if name != "narrow")

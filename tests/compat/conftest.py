"""What the compatibility tests hold answers against: transformers' model and tokenizer of the served folder."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from openai import AsyncOpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from brie_server.engine.base import FinishReason
from scripted_engine import ScriptedEngine, scripted


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    """The served model's."""
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> Any:
    """The served model in float32."""
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[ScriptedEngine, AsyncOpenAI]]:
    """One scripted engine and app for all tests of responses, which run in the session's loop."""
    async with scripted(tiny_model, tmp_path_factory.mktemp("scripted")) as both:
        yield both


@pytest.fixture
def serving(shared_engine: tuple[ScriptedEngine, AsyncOpenAI]) -> tuple[ScriptedEngine, AsyncOpenAI]:
    """The same, having said nothing yet."""
    shared_engine[0].says, shared_engine[0].end = "", FinishReason.STOP
    return shared_engine

"""What answers are held against, transformers' model and tokenizer, and servers that clients need for some cases."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from openai import AsyncOpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.gguf_model import ServedModel
from brie_server.app import create_app
from brie_server.engine.base import FinishReason
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.scheduler import Limits
from openai_document.watching import watched
from scripted_engine import ConversationEngine, ScriptedEngine, scripted
from tiny_models import write_tiny_llama
from uvicorn_threads import listening

LONG_CONTEXT = 65_536


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    """The served model's."""
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> Any:
    """The served model in float32."""
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture(scope="session")
def scripted_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that says what the conversation's own script wants, to whoever has the key `brie-key`."""
    home = tmp_path_factory.mktemp("scripted")
    base = open_base_model("scripted", tiny_model, home / "digests.json")
    settings = Settings(home=home, api_keys=("brie-key",))
    with listening(create_app(settings, base, lambda _settings, _base: ConversationEngine(tiny_model))) as url:
        yield url


@pytest.fixture(scope="session")
def narrow_url(default_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one place and one to wait in, whose model can go on for minutes: who leaves must make room."""
    home = tmp_path_factory.mktemp("narrow")
    folder = write_tiny_llama(home / "tiny", default_model.folder, max_position_embeddings=LONG_CONTEXT)
    base = open_base_model("tiny", folder, home / "digests.json")

    def make(_settings: Settings, _base: ServedModel) -> TorchEngine:
        return TorchEngine(base, torch.device("cpu"), torch.float32, Limits(max_rows=1, max_waiting=1))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with listening(create_app(Settings(home=home), base, make)) as url:
        yield url
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def openai_faults() -> Iterator[list[str]]:
    """What OpenAI's own document says against any answer that these tests got."""
    with watched() as faults:
        yield faults


@pytest.fixture(autouse=True)
def each_answer_is_as_openais_document_has_it(openai_faults: list[str]) -> Iterator[None]:
    """Whatever a test asks and looks at, the whole of each answer is judged."""
    openai_faults.clear()
    yield
    assert not openai_faults, "\n".join(openai_faults)


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

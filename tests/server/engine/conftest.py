"""Engines and tiny models for the engine's tests. It knows no server."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import torch

from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_model import GgufModel
from brie_server.engine.llamacpp.engine import LlamaCppEngine, Options
from brie_server.engine.llamacpp.scheduler import Limits as LlamaCppLimits
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits
from server.engine.asking import CPU, make_runner
from server.engine.tiny_gguf import write_tiny_gguf
from server.engine.tiny_models import FAMILIES, TinyModel, make_model


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_each_product() -> Iterator[None]:
    """Products this small are no faster on two cores, and ten times slower when the cores are busy with other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brie_server.engine.llamacpp.engine._num_threads", lambda: 1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyModel]:
    """One random checkpoint of each family."""
    return {family: make_model(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def tiny_model(tiny_models: dict[str, TinyModel]) -> TinyModel:
    """The llama among them."""
    return tiny_models["llama"]


@pytest.fixture(scope="session")
def tiny_gguf(tiny_models: dict[str, TinyModel], tmp_path_factory: pytest.TempPathFactory) -> GgufModel:
    """The llama as a GGUF file in f32."""
    return write_tiny_gguf(tiny_models["llama"].base, tmp_path_factory.mktemp("gguf"))


@pytest.fixture
async def start_llamacpp(tmp_path: Path) -> AsyncIterator[Callable[..., LlamaCppEngine]]:
    """Starts llama.cpp engines with a cache in float32 on the CPU and closes them."""
    started: list[LlamaCppEngine] = []

    def start(
        base: GgufModel, *, num_cells: int | None = None, dtype: str = "float32", **limits: int
    ) -> LlamaCppEngine:
        options = Options(device="cpu", dtype="float32", tmp=tmp_path / "tmp")
        started.append(LlamaCppEngine(base, options, LlamaCppLimits(**limits), num_cells))
        return started[-1]

    yield start
    for engine in started:
        await engine.aclose()


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., TorchEngine]]:
    """Starts torch engines in float32 on the CPU and closes them."""
    started: list[TorchEngine] = []

    def start(base: BaseModel, *, token_budget: int | None = None, **limits: int) -> TorchEngine:
        started.append(TorchEngine(base, CPU, torch.float32, Limits(**limits), token_budget))
        return started[-1]

    yield start
    for engine in started:
        await engine.aclose()


@pytest.fixture
def runner(tiny_model: TinyModel) -> Runner:
    """A runner without scheduler and thread."""
    return make_runner(tiny_model.base)


@pytest.fixture
def broken_folder(tmp_path: Path) -> Path:
    """A folder that is no adapter."""
    return tmp_path

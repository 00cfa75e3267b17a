"""The device and the tiny models for the suite that runs on any device. It knows no server."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import torch

from brie_core.weights.base_model import BaseModel
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.scheduler import Limits
from gpu.device import NONE, find_device
from server.engine.tiny_models import FAMILIES, TinyModel, make_model
from tiny_models import write_tiny_llama


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The accelerator, or what BRIE_DEVICE names. The CPU must be named: tests/server/engine covers it anyway."""
    found = find_device()
    if found is None:
        pytest.skip(NONE)
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_each_product() -> Iterator[None]:
    """Products this small are no faster on many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_models(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyModel]:
    """One random checkpoint of each family; made only if there is a device."""
    return {family: make_model(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def tiny_model(tiny_models: dict[str, TinyModel]) -> TinyModel:
    """The llama among them."""
    return tiny_models["llama"]


@pytest.fixture(scope="session")
def chat_model(default_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama with the default model's tokenizer, to train on."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", default_model.folder)


@pytest.fixture
async def start(device: torch.device) -> AsyncIterator[Callable[..., TorchEngine]]:
    """Starts engines in float32 on the device and closes them."""
    started: list[TorchEngine] = []

    def start(base: BaseModel, *, token_budget: int | None = None, **limits: int) -> TorchEngine:
        started.append(TorchEngine(base, device, torch.float32, Limits(**limits), token_budget))
        return started[-1]

    yield start
    for engine in started:
        await engine.aclose()

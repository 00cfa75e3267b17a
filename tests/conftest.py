"""What every test may use: a BRIE_HOME with the default model, and tiny random models. It knows no service."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brie_core.settings import Settings
from brie_core.store.database import Database, open_database
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import quiet_hub, resolve_base_model

quiet_hub(os.environ)
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BRIE_HOME into which the default model was imported."""
    home = tmp_path_factory.mktemp("brie-home")
    resolve_base_model(Settings(home=home))
    return home


@pytest.fixture(scope="session")
def default_model(model_home: Path) -> BaseModel:
    """SmolLM2-135M-Instruct."""
    return resolve_base_model(Settings(home=model_home))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh SQLite database."""
    opened = await open_database(Settings(home=tmp_path))
    yield opened
    await opened.aclose()

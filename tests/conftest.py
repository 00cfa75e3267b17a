"""What every test may use: a BRIE_HOME with the default model, and tiny random models. It knows no service."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import databases
from brie_core.libraries import prepare_libraries
from brie_core.settings import Settings
from brie_core.store.database import Database
from brie_core.store.schema import migrate, open_database
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.resolve import resolve_base_model
from brie_processes import BrieProcesses
from postgres_cluster import NoPostgres, PostgresCluster
from tiny_models import write_lora, write_tiny_llama

prepare_libraries(os.environ)
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgresql", action="store_true", help="whole services keep their rows in PostgreSQL, too")


@pytest.fixture(scope="session", autouse=True)
def database_of_services(request: pytest.FixtureRequest) -> None:
    """What `--postgresql` asks for."""
    if request.config.getoption("--postgresql"):
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        databases.choose(lambda: cluster.url(cluster.new_database("brie_1")))


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """A real PostgreSQL with a migrated database `brie_1` to copy; tests that need one say so where there is none."""
    try:
        cluster = PostgresCluster()
    except NoPostgres as missing:
        pytest.skip(str(missing))
    migrate(Settings(home=cluster.folder, database_url=cluster.url(cluster.new_database())))
    yield cluster
    cluster.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of a fresh database: whatever holds on one must hold on the other."""
    if request.param == "sqlite":
        return ""
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    return cluster.url(cluster.new_database("brie_1"))


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """The same, opened."""
    opened = await open_database(Settings(home=tmp_path, database_url=database_url))
    yield opened
    await opened.aclose()


@pytest.fixture(scope="session")
def tiny_model(default_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama with the default model's tokenizer."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", default_model.folder)


@pytest.fixture(scope="session")
def tiny_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """The same, opened."""
    return open_base_model("tiny", tiny_model, tmp_path_factory.mktemp("digests") / "digests.json")


@pytest.fixture(scope="session")
def tiny_lora(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter of the tiny model, with effect."""
    return write_lora(tmp_path_factory.mktemp("adapters") / "lora", tiny_model)


@pytest.fixture(scope="session")
def brie(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrieProcesses]:
    """A running API and worker over the tiny model, shared by the tests that break nothing."""
    home = tmp_path_factory.mktemp("shared") / "home"
    processes = BrieProcesses(home, tiny_model, {"BRIE_DATABASE_URL": databases.database_url_of(home)})
    processes.start("brie_server", "brie_trainer")
    yield processes
    processes.stop_all()

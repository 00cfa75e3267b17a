"""The walk of the README, once, on the real model: what the tests of this folder look at."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from brie_core.store.adapters import AdapterStore
from brie_core.weights.base_model import BaseModel
from brie_processes import BrieProcesses
from walk import Report, walk


@dataclass(frozen=True)
class Walked:
    """A Brie after its walk."""

    brie: BrieProcesses
    client: OpenAI
    report: Report
    adapter: Path
    """The folder of the adapter version that was trained."""
    version: str


@pytest.fixture(scope="session")
def walked(model_home: Path, default_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    """Train, serve and ship, with the openai SDK as the only client."""
    all_cores = {"OMP_NUM_THREADS": str(os.cpu_count())}
    brie = BrieProcesses(model_home, default_model.id, all_cores).start("brie_server", "brie_trainer")
    try:
        client = brie.client()
        report = walk(client, tmp_path_factory.mktemp("walk"), epochs=1, quantization="q8_0")
        version = client.models.retrieve("philosophy").root  # type: ignore[attr-defined]
        yield Walked(brie, client, report, AdapterStore(model_home).open(version).folder, version)
    finally:
        brie.stop_all()

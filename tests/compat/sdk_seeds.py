"""A pytest plugin for the tests of openai-python: before each, Brie has what it names. It knows the suite's names only.

The suite was written for a mock that knows every id. Rows are copied from ones that were made over the API, because no
API gives things ids of one's choice.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

BASE = "gpt-4o-mini"
"""The model that their jobs train."""
MODELS = ("gpt-5.4", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "ft:gpt-4o-mini:acemeco:suffix:abc123")
FILES = ("file_id", "file-abc123")
JOBS = ("ft-AF1WoRqd3aJAHsqc9NY7iL8F",)
RESPONSES = ("resp_677efb5139a88190b512bc3fef8e535d", "resp_123", "response_id")


@pytest.fixture(autouse=True)
def what_the_suite_names() -> Iterator[None]:
    """Deleted files and cancelled jobs are there again."""
    home = Path(os.environ["BRIE_HOME"])
    seed(home)
    yield


def seed(home: Path) -> None:
    """Write the rows, and the files' bytes, from the first that there are."""
    with sqlite3.connect(home / "brie.sqlite3", timeout=30) as database:
        database.row_factory = sqlite3.Row
        file_id = _copy(database, "files", "id", FILES)
        _copy(database, "jobs", "id", JOBS)
        _copy(database, "aliases", "name", MODELS)
        _copy(database, "responses", "id", RESPONSES)
    database.close()
    for name in FILES:
        shutil.copyfile(home / "files" / file_id, home / "files" / name)


def _copy(database: sqlite3.Connection, table: str, key: str, names: tuple[str, ...]) -> str:
    """The first row by age under each of the names; returns its own."""
    marks = ", ".join("?" for _ in names)
    first = database.execute(
        f"SELECT * FROM {table} WHERE {key} NOT IN ({marks}) ORDER BY created_at, {key}", names
    ).fetchone()
    for name in names:
        row = dict(first) | {key: name}
        columns, values = ", ".join(row), ", ".join("?" for _ in row)
        database.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({values})", tuple(row.values()))
    return str(first[key])

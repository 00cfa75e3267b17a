"""Adapter versions, names and files: whole or absent, and what is published does not change unnoticed."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brie_core.errors import Conflict, InvalidAdapter, InvalidRequest, NotFound
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.card import card
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.weights.base_model import BaseModel, open_base_model
from tiny_models import write_lora, write_tiny_llama


@pytest.fixture
def adapters(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path)


@pytest.fixture
def aliases(database: Database) -> AliasStore:
    return AliasStore(database)


@pytest.fixture
def files(database: Database, tmp_path: Path) -> FileStore:
    return FileStore(database, tmp_path)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def test_a_published_version_is_found_by_its_digest(
    adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel
) -> None:
    version = adapters.publish(tiny_lora, tiny_base, {"job_id": "j"})
    assert adapters.open(version.digest) == version
    assert version.manifest["job_id"] == "j"
    assert (version.folder / "README.md").read_text() == card(version.manifest)
    adapters.verify(version, tiny_base)


def test_the_same_adapter_is_one_version_and_another_is_another(
    adapters: AdapterStore, tiny_lora: Path, tiny_model: Path, tiny_base: BaseModel, tmp_path: Path
) -> None:
    first, again = (adapters.publish(tiny_lora, tiny_base, {}) for _ in range(2))
    other = adapters.publish(write_lora(tmp_path / "other", tiny_model, seed=1), tiny_base, {})
    assert first.digest == again.digest != other.digest


def test_another_alpha_is_another_version(
    adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_lora, tmp_path / "copy"))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 9}))
    assert adapters.publish(copy, tiny_base, {}).digest != adapters.publish(tiny_lora, tiny_base, {}).digest


def test_a_version_damaged_on_disk_is_not_served(adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel) -> None:
    version = adapters.publish(tiny_lora, tiny_base, {})
    weights = version.folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InvalidAdapter, match="damaged") as caught:
        adapters.verify(version, tiny_base)
    assert caught.value.code == "adapter_corrupt"


def test_a_version_of_another_base_is_not_served(
    adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel, default_model: BaseModel, tmp_path: Path
) -> None:
    version = adapters.publish(tiny_lora, tiny_base, {})
    twin = write_tiny_llama(tmp_path / "twin", default_model.folder, rms_norm_eps=1e-4, initializer_range=0.1)
    other = open_base_model("twin", twin, tmp_path / "digests.json")
    for refused in (lambda: adapters.verify(version, other), lambda: adapters.publish(version.folder, other, {})):
        with pytest.raises(InvalidAdapter) as caught:
            refused()
        assert caught.value.code == "adapter_base_mismatch"


def test_publishing_again_repairs_a_damaged_version(
    adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel
) -> None:
    version = adapters.publish(tiny_lora, tiny_base, {})
    (version.folder / "adapter_model.safetensors").write_bytes(b"torn")
    adapters.verify(adapters.publish(tiny_lora, tiny_base, {}), tiny_base)


def test_the_same_tensors_over_another_base_are_another_version(
    adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel, default_model: BaseModel, tmp_path: Path
) -> None:
    twin = write_tiny_llama(tmp_path / "twin", default_model.folder, initializer_range=0.1)
    other = open_base_model("twin", twin, tmp_path / "digests.json")
    first, second = adapters.publish(tiny_lora, tiny_base, {}), adapters.publish(tiny_lora, other, {})
    assert first.digest != second.digest
    adapters.verify(second, other)


@pytest.mark.parametrize("manifest", ["{", "[]", '{"base": "x"}', "{}"])
def test_a_brie_json_that_cannot_be_read_is_refused(
    manifest: str, adapters: AdapterStore, tiny_lora: Path, tiny_base: BaseModel, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_lora, tmp_path / "copy"))
    (copy / "brie.json").write_text(manifest)
    with pytest.raises(InvalidAdapter) as caught:
        adapters.publish(copy, tiny_base, {})
    assert caught.value.code == "adapter_config_invalid"


def test_a_refused_adapter_leaves_nothing_behind(adapters: AdapterStore, tiny_base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter):
        adapters.publish(tmp_path, tiny_base, {})
    assert not list((tmp_path / "adapters").glob("*")) if (tmp_path / "adapters").exists() else True
    assert not list((tmp_path / "tmp").glob("adapter-*")) if (tmp_path / "tmp").exists() else True


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "a" * 64 + "/..", "A" * 64])
def test_only_digests_reach_the_file_system(digest: str, adapters: AdapterStore) -> None:
    with pytest.raises(NotFound):
        adapters.open(digest)


async def test_a_name_moves_only_from_where_the_caller_thinks_it_is(aliases: AliasStore) -> None:
    await aliases.move("a", "v1", expected=None)
    with pytest.raises(Conflict):
        await aliases.move("a", "v2", expected=None)
    with pytest.raises(Conflict):
        await aliases.move("a", "v2", expected="v0")
    assert (await aliases.move("a", "v2", expected="v1")).version == "v2"


async def test_of_many_moves_from_one_version_one_wins(aliases: AliasStore) -> None:
    await aliases.move("a", "v0", expected=None)
    moves = (aliases.move("a", f"v{i}", expected="v0") for i in range(1, 9))
    outcomes = await asyncio.gather(*moves, return_exceptions=True)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1


async def test_deleting_tells_when_a_version_lost_its_last_name(aliases: AliasStore) -> None:
    await aliases.move("a", "v", expected=None)
    await aliases.move("b", "v", expected=None)
    assert await aliases.delete("a") is None
    assert await aliases.delete("b") == "v"
    with pytest.raises(NotFound):
        await aliases.get("b")


async def test_a_saved_file_is_read_back(files: FileStore) -> None:
    saved = await files.save(once(b"hello"), filename="../../x.jsonl", purpose="user_data")
    found = await files.get(saved.id)
    assert found.path.read_bytes() == b"hello"
    assert (found.filename, found.bytes) == ("../../x.jsonl", 5)
    assert found.path.parent.name == "files"


async def test_a_refused_file_leaves_nothing_behind(files: FileStore, tmp_path: Path) -> None:
    def refuse(_path: Path) -> None:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest):
        await files.save(once(b"x"), filename="x", purpose="fine-tune", check=refuse)
    assert await files.list(limit=10) == []
    assert list((tmp_path / "files").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_files_are_paged_in_both_orders(files: FileStore) -> None:
    ids = sorted([(await files.save(once(b"x"), filename=str(i), purpose="user_data")).id for i in range(5)])
    newest = await files.list(limit=3)
    assert [file.id for file in newest] == ids[::-1][:3]
    assert [file.id for file in await files.list(limit=9, after=newest[-1].id)] == ids[::-1][3:]
    assert [file.id for file in await files.list(limit=2, newest_first=False)] == ids[:2]


async def test_a_deleted_file_is_gone(files: FileStore) -> None:
    saved = await files.save(once(b"x"), filename="x", purpose="user_data")
    await files.delete(saved.id)
    assert not saved.path.exists()
    with pytest.raises(NotFound):
        await files.get(saved.id)


async def test_an_expired_file_is_gone(database: Database, tmp_path: Path) -> None:
    now = [1000.0]
    files = FileStore(database, tmp_path, clock=lambda: now[0])
    saved = await files.save(once(b"x"), filename="x", purpose="user_data", lifetime=3600)
    now[0] += 3601
    with pytest.raises(NotFound):
        await files.get(saved.id)

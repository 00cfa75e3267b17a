"""Adapters over HTTP: imported, pointed, rolled back, dropped; and the door with its keys."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from brie_processes import BrieProcesses
from tiny_models import write_lora

MESSAGES: Any = [{"role": "user", "content": "Who was Spinoza?"}]


@pytest.fixture
def two(brie: BrieProcesses, tiny_model: Path, tiny_lora: Path) -> Iterator[tuple[Path, Path]]:
    """Two adapter folders from which the running Brie may import."""
    folder = brie.home / "tmp" / "imports"
    first = Path(shutil.copytree(tiny_lora, folder / "first"))
    yield first, write_lora(folder / "second", tiny_model, seed=5)
    shutil.rmtree(folder)


def load(brie: BrieProcesses, name: str, folder: Path, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{brie.url}/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder), **more})


def unload(brie: BrieProcesses, name: str) -> httpx2.Response:
    return httpx2.post(f"{brie.url}/v1/unload_lora_adapter", json={"lora_name": name})


def say(brie: BrieProcesses, model: str) -> tuple[str, str]:
    """The greedy answer, and the version that gave it."""
    raw = brie.client().chat.completions.with_raw_response.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=12
    )
    return raw.parse().choices[0].message.content or "", raw.headers["brie-adapter-version"]


def test_an_imported_adapter_answers_and_is_dropped(brie: BrieProcesses, two: tuple[Path, Path]) -> None:
    base, _ = say(brie, "tiny")
    assert load(brie, "imported", two[0]).status_code == 200
    answer, version = say(brie, "imported")
    assert answer != base
    assert version != "base"
    assert load(brie, "imported", two[0]).status_code == 400
    assert unload(brie, "imported").status_code == 200
    assert unload(brie, "imported").status_code == 404
    with pytest.raises(openai.NotFoundError):
        say(brie, "imported")


def test_replacing_in_place_changes_the_answer_and_rolling_back_restores_it(
    brie: BrieProcesses, two: tuple[Path, Path]
) -> None:
    load(brie, "kept", two[0])
    load(brie, "moving", two[0])
    first, version = say(brie, "moving")
    assert load(brie, "moving", two[1], load_inplace=True).status_code == 200
    second, other = say(brie, "moving")
    assert (second != first, other != version) == (True, True)
    url = f"{brie.url}/v1/adapters/moving"
    lost = httpx2.put(url, json={"version": version, "expected_version": version})
    assert lost.status_code == 409
    assert lost.headers["x-should-retry"] == "false"
    assert httpx2.put(url, json={"version": version, "expected_version": other}).status_code == 200
    assert say(brie, "moving") == (first, version)
    for name in ("kept", "moving"):
        unload(brie, name)


def test_a_stream_goes_on_while_its_adapter_is_dropped(brie: BrieProcesses, two: tuple[Path, Path]) -> None:
    load(brie, "leaving", two[0])
    client = brie.client()
    whole = client.chat.completions.create(model="leaving", messages=MESSAGES, temperature=0, max_tokens=150)
    stream = client.chat.completions.create(
        model="leaving", messages=MESSAGES, temperature=0, max_tokens=150, stream=True
    )
    text = next(iter(stream)).choices[0].delta.content or ""
    assert unload(brie, "leaving").status_code == 200
    text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content


def test_a_refused_adapter_changes_nothing(brie: BrieProcesses, two: tuple[Path, Path]) -> None:
    (two[0] / "adapter_model.safetensors").write_bytes(b"torn")
    refused = load(brie, "torn", two[0])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "adapter_weights_corrupt")
    assert "torn" not in {model.id for model in brie.client().models.list()}


def test_an_adapter_can_be_pinned(brie: BrieProcesses, two: tuple[Path, Path]) -> None:
    refused = load(brie, "pinned", two[0], pinned="yes")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "pinned")
    assert load(brie, "pinned", two[0], pinned=True).status_code == 200
    assert say(brie, "pinned")[1] != "base"
    assert unload(brie, "pinned").status_code == 200


def test_adapters_show_their_manifest(brie: BrieProcesses, two: tuple[Path, Path]) -> None:
    load(brie, "shown", two[0])
    adapter = httpx2.get(f"{brie.url}/v1/adapters/shown").json()
    assert adapter["manifest"]["version"] == adapter["version"]
    assert adapter["base_model"] == "tiny"
    unload(brie, "shown")


@pytest.fixture(scope="module")
def locked(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrieProcesses]:
    processes = BrieProcesses(tmp_path_factory.mktemp("locked") / "home", tiny_model, {"BRIE_API_KEYS": "k1,k2"})
    yield processes.start("brie_server")
    processes.stop_all()


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer k3", "Basic k1", "Bearer k1k2", "Bearer k\u00e9"])
def test_without_a_key_nothing_is_told(header: str | None, locked: BrieProcesses) -> None:
    headers = {} if header is None else {"authorization": header.encode()}
    response = httpx2.get(f"{locked.url}/v1/models", headers=headers)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("key", ["k1", "k2"])
def test_any_of_the_keys_opens(key: str, locked: BrieProcesses) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key) as client:
        assert client.models.list().data[0].id == "tiny"


def test_health_needs_no_key(locked: BrieProcesses) -> None:
    assert httpx2.get(f"{locked.url}/health/ready").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example:80"}, {"origin": "https://evil.example"}, {"origin": "null"}]
)
def test_a_foreign_host_or_origin_is_not_answered_without_keys(headers: dict[str, str], brie: BrieProcesses) -> None:
    response = httpx2.get(f"{brie.url}/v1/models", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("headers", [{"host": "localhost:1"}, {"host": "[::1]:1"}, {"origin": "http://localhost:3000"}])
def test_this_machine_is_answered_by_any_of_its_names(headers: dict[str, str], brie: BrieProcesses) -> None:
    assert httpx2.get(f"{brie.url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["\x00", "~nosuchuser/x", "x" * 300])
def test_a_path_that_cannot_be_looked_at_is_a_clear_error(path: str, brie: BrieProcesses) -> None:
    response = httpx2.post(f"{brie.url}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path})
    assert response.status_code in {400, 404}
    assert response.json()["error"]["param"] == "lora_path"


def test_a_base_is_not_served_under_an_adapters_name(tiny_model: Path, tiny_lora: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = BrieProcesses(home, tiny_model, {"BRIE_ADAPTER_ROOTS": str(tiny_lora.parent)}).start("brie_server")
    assert load(first, "twin", tiny_lora).status_code == 200
    first.stop_all()
    second = BrieProcesses(home, Path(shutil.copytree(tiny_model, tmp_path / "twin")))
    with pytest.raises(RuntimeError, match="which is the name of an adapter"):
        second.start("brie_server")
    second.stop_all()

"""`brie export` as a person runs it: each format as a file or a folder, told in words and in JSON, and gone on with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from brie_client import Brie
from brie_core.weights.base_model import file_digest
from brie_processes import BrieProcesses
from clients.test_command_line import brie_command

NAME = "team.shipped"


@pytest.fixture(scope="module")
def client(brie: BrieProcesses, tiny_lora: Path) -> Iterator[Brie]:
    """Of a server that has an adapter."""
    folder = shutil.copytree(tiny_lora, brie.home / "tmp" / "exported-by-command")
    body = {"lora_name": NAME, "lora_path": str(folder)}
    assert httpx2.post(f"{brie.url}/v1/load_lora_adapter", json=body).status_code == 200
    with Brie(base_url=f"{brie.url}/v1") as opened:
        yield opened


def test_a_merged_model_is_a_folder_and_an_adapter_a_file(client: Brie, brie: BrieProcesses, tmp_path: Path) -> None:
    merged = brie_command(brie, "export", NAME, "--format", "merged", "--dtype", "f16", "--json", folder=tmp_path)
    assert merged.returncode == 0, merged.stderr
    last = json.loads(merged.stdout.splitlines()[-1])
    assert last["path"] == "team.shipped"
    assert last["serve"] == f"BRIE_MODEL={tmp_path / 'team.shipped'} brie serve"
    assert (tmp_path / "team.shipped" / "model.safetensors").is_file()
    adapter = brie_command(brie, "export", NAME, "--format", "gguf_adapter", folder=tmp_path)
    assert adapter.returncode == 0, adapter.stderr
    assert adapter.stdout.splitlines()[-1] == "team.shipped-lora.gguf"
    assert {path.name for path in tmp_path.iterdir()} == {"team.shipped", "team.shipped-lora.gguf"}


def test_a_gguf_file_comes_with_the_command_that_serves_it_and_a_download_is_gone_on_with(
    client: Brie, brie: BrieProcesses, tmp_path: Path
) -> None:
    made = brie_command(brie, "export", NAME, "--quantization", "f16", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    file = tmp_path / "team.shipped-f16.gguf"
    assert f"BRIE_ENGINE=llamacpp BRIE_MODEL={file} brie serve" in made.stderr
    export = client.exports.list()[0]
    assert file_digest(file) == export.files[0].sha256
    cut = tmp_path / f"{file.name}.{export.files[0].sha256[:8]}.partial"
    cut.write_bytes(file.read_bytes()[:100_000])
    file.unlink()
    again = brie_command(brie, "export", "--id", export.id, "--json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["sha256"] == file_digest(file)
    assert not cut.exists()
    assert client.exports.list()[0].id == export.id  # nothing was exported again
    whole = brie_command(brie, "export", "--id", export.id, "--all", "--output", "folder", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {each.filename for each in export.files}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--format", "peft"), "is of an adapter"),
        ((NAME, "--format", "merged", "--quantization", "q8_0"), "has no quantization"),
        ((NAME, "--format", "zip"), "format"),
        (("nope",), "does not exist"),
    ],
)
def test_what_the_server_refuses_is_told_in_one_line(
    client: Brie, brie: BrieProcesses, arguments: tuple[str, ...], words: str
) -> None:
    refused = brie_command(brie, "export", *arguments)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_model_or_an_export_has_to_be_named(brie: BrieProcesses) -> None:
    for arguments in ((), ("x", "--id", "export-y")):
        assert brie_command(brie, "export", *arguments).returncode == 2

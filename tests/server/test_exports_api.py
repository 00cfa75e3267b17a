"""/v1/exports over HTTP: four formats, events, downloads in parts by the client, deletion, and what is refused."""

import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from brie_client import Brie
from brie_core.weights.base_model import file_digest
from brie_core.wire import ExportObject
from brie_processes import BrieProcesses

NAME = "shipped"


@pytest.fixture(scope="module")
def client(brie: BrieProcesses, tiny_lora: Path) -> Iterator[Brie]:
    """Of a server that has an adapter."""
    folder = shutil.copytree(tiny_lora, brie.home / "tmp" / NAME)
    body = {"lora_name": NAME, "lora_path": str(folder)}
    assert httpx2.post(f"{brie.url}/v1/load_lora_adapter", json=body).status_code == 200
    with Brie(base_url=f"{brie.url}/v1", max_retries=0) as opened:
        yield opened


def _done(client: Brie, **asked: Any) -> ExportObject:
    *_, last = client.exports.follow(client.exports.create(model=NAME, **asked).id, poll_seconds=0.1)
    assert last.status == "succeeded", last.error
    return last


@pytest.fixture(scope="module")
def adapter_export(client: Brie) -> ExportObject:
    return _done(client, format="gguf_adapter")


def test_each_format_arrives_whole_and_is_what_it_is_called(client: Brie, tmp_path: Path) -> None:
    merged = _done(client, format="merged", dtype="bf16")
    folder = client.exports.download_all(merged, tmp_path / "merged")
    assert {path.name for path in folder.iterdir()} == {file.filename for file in merged.files}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "manifest.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert (merged.format, merged.dtype, merged.quantization) == ("merged", "bf16", None)
    with pytest.raises(openai.BadRequestError) as refused:
        client.get(f"/exports/{merged.id}/content", cast_to=object)
    assert refused.value.code == "export_is_a_folder"

    archive = client.exports.download(_done(client, format="peft"), tmp_path / "adapter.zip")
    with zipfile.ZipFile(archive) as opened:
        assert f"{NAME}/adapter_model.safetensors" in opened.namelist()

    gguf = _done(client, quantization="q8_0")
    folder = client.exports.download_all(gguf, tmp_path / "gguf")
    assert [file.filename for file in gguf.files] == [f"{NAME}-q8_0.gguf", "Modelfile", "README.md", "manifest.json"]
    assert (folder / "Modelfile").read_text().startswith(f"FROM ./{NAME}-q8_0.gguf\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"][0]["sha256"] == file_digest(folder / f"{NAME}-q8_0.gguf")
    assert manifest["files"][0]["sha256"] in (folder / "README.md").read_text()


def test_nothing_said_is_f16(client: Brie) -> None:
    export = client.exports.create(model="tiny")
    assert (export.format, export.quantization, export.dtype) == ("gguf", "f16", None)
    client.exports.cancel(export.id)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"format": "onnx"}, "format", "invalid_value"),
        ({"format": None}, "format", "invalid_value"),
        ({"format": "merged", "quantization": "q8_0"}, "quantization", "invalid_value"),
        ({"format": "peft", "quantization": "q8_0"}, "quantization", "invalid_value"),
        ({"format": "gguf", "dtype": "f16"}, "dtype", "invalid_value"),
        ({"format": "merged", "dtype": "f8"}, "dtype", "invalid_value"),
        ({"format": "peft", "model": "tiny"}, "model", "adapter_required"),
        ({"format": "gguf_adapter", "model": "tiny"}, "model", "adapter_required"),
        ({"quantization": "q1"}, "quantization", "unsupported_quantization"),
        ({"formt": "peft"}, "formt", "invalid_value"),
    ],
)
def test_what_does_not_go_together_is_refused(body: dict[str, Any], param: str, code: str, client: Brie) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/exports", body={"model": NAME} | body, cast_to=object)
    assert (refused.value.param, refused.value.code) == (param, code)


def test_events_are_told_in_pages_newest_first(client: Brie, adapter_export: ExportObject) -> None:
    told = client.exports.events(adapter_export.id)
    messages = [event.message for event in reversed(told)]
    assert messages[:2] == ["Created export", "Export started"]
    assert "trying it in llama.cpp" in messages
    assert messages[-1] == "The export has successfully completed"
    assert {event.object for event in told} == {"export.event"}
    page: Any = client.get(f"/exports/{adapter_export.id}/events?limit=1", cast_to=object)
    assert (page["has_more"], page["data"][0]["id"]) == (True, told[0].id)
    page = client.get(f"/exports/{adapter_export.id}/events?limit=1&after={told[0].id}", cast_to=object)
    assert page["data"][0]["id"] == told[1].id


def test_a_part_of_a_file_can_be_had(client: Brie, adapter_export: ExportObject, brie: BrieProcesses) -> None:
    file = adapter_export.files[0]
    url = f"{brie.url}/v1/exports/{adapter_export.id}"
    whole = httpx2.get(f"{url}/content")
    assert whole.headers["etag"] == f'"{file.sha256}"'
    assert whole.content == httpx2.get(f"{url}/files/{file.filename}").content
    part = httpx2.get(f"{url}/files/{file.filename}", headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, whole.content[100:])
    for name in ("nothing", "..%2Fmanifest.json", "%2Fetc%2Fpasswd", "%00"):
        assert httpx2.get(f"{url}/files/{name}").status_code == 404


class _Cutting(BaseHTTPRequestHandler):
    """Passes requests on, and cuts each answer off after a third of it."""

    behind = ""
    asked: list[str | None] = []  # noqa: RUF012  # one server's, and it has one class

    def do_GET(self) -> None:  # the framework's name
        self.asked.append(self.headers.get("Range"))
        names = ("Range", "If-Range", "Authorization")
        found = httpx2.get(
            f"{self.behind}{self.path}", headers={n: self.headers[n] for n in names if n in self.headers}
        )
        self.send_response(found.status_code)
        self.send_header("content-length", str(len(found.content)))
        self.end_headers()
        self.wfile.write(found.content[: len(found.content) // 3 + 1])
        self.close_connection = True

    def log_message(self, *_arguments: Any) -> None: ...


@pytest.fixture
def cutting(brie: BrieProcesses) -> Iterator[tuple[str, list[str | None]]]:
    """A server behind a line that breaks, and the ranges that were asked of it."""
    asked: list[str | None] = []
    handler = type("Cutting", (_Cutting,), {"behind": brie.url, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_goes_on_over_a_line_that_breaks(
    cutting: tuple[str, list[str | None]], adapter_export: ExportObject, tmp_path: Path
) -> None:
    url, asked = cutting
    arrived: list[int] = []
    with Brie(base_url=f"{url}/v1") as client:
        target = client.exports.download(adapter_export, tmp_path / "x.gguf", arrived=lambda _f, n: arrived.append(n))
    assert file_digest(target) == adapter_export.files[0].sha256
    assert list(tmp_path.iterdir()) == [target]
    assert asked[0] is None
    assert len(asked) > 3
    assert all(each and each.startswith("bytes=") for each in asked[1:])
    assert arrived == sorted(arrived)
    assert arrived[-1] == adapter_export.files[0].bytes


def test_a_later_download_goes_on_with_what_an_earlier_left(
    client: Brie, adapter_export: ExportObject, tmp_path: Path
) -> None:
    file, target = adapter_export.files[0], tmp_path / "x.gguf"
    whole = client.exports.download(adapter_export, tmp_path / "whole").read_bytes()
    partial = tmp_path / f"x.gguf.{file.sha256[:8]}.partial"
    partial.write_bytes(whole[: len(whole) // 2])
    arrived: list[int] = []
    client.exports.download(adapter_export, target, arrived=lambda _file, here: arrived.append(here))
    assert target.read_bytes() == whole
    assert arrived[0] > len(whole) // 2
    assert not partial.exists()

    target.unlink()
    partial.write_bytes(b"x" * (len(whole) // 2))  # damaged: found out by the digest, and not gone on with twice
    with pytest.raises(OSError, match="damaged"):
        client.exports.download(adapter_export, target)
    assert not target.exists()
    assert client.exports.download(adapter_export, target).read_bytes() == whole


def test_a_folder_appears_only_when_all_of_it_is_there(
    client: Brie, adapter_export: ExportObject, tmp_path: Path, brie: BrieProcesses
) -> None:
    missing = adapter_export.files[1].model_copy(update={"filename": "nothing"})
    broken = adapter_export.model_copy(update={"files": [adapter_export.files[0], missing]})
    with pytest.raises(httpx2.HTTPStatusError):
        client.exports.download_all(broken, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    folder = client.exports.download_all(adapter_export, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [folder]
    assert client.exports.download_all(adapter_export, folder) == folder  # it is this export already
    (folder / "README.md").write_text("mine")
    with pytest.raises(FileExistsError):
        client.exports.download_all(adapter_export, folder)
    assert (folder / "README.md").read_text() == "mine"


def test_an_export_is_deleted_with_its_files_and_not_before_its_end(client: Brie, brie: BrieProcesses) -> None:
    export = _done(client, format="peft")
    folder = brie.home / "exports" / export.id
    assert folder.is_dir()
    assert client.exports.delete(export.id).deleted
    assert not folder.exists()
    assert not (brie.home / "jobs" / export.id).exists()
    for path in ("", "/events", "/content", "/files/README.md"):
        with pytest.raises(openai.NotFoundError):
            client.get(f"/exports/{export.id}{path}", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.exports.delete(export.id)
    running = client.exports.create(model="tiny", quantization="q4_k_m")
    with pytest.raises(openai.ConflictError) as refused:
        client.exports.delete(running.id)
    assert refused.value.code == "job_not_finished"
    client.exports.cancel(running.id)
    assert client.exports.delete(running.id).deleted

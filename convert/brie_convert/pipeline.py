"""A request in; a folder with verified files, their card and their manifest out. It knows no job.

Everything is built in a work folder on the same file system as the output, and appears there by one rename: whatever
kills an export, the output is whole or it is not there.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from brie_convert.card import CARD, card
from brie_convert.manifest import (
    MANIFEST,
    ExportedFile,
    ExportRequest,
    Made,
    Sources,
    describe,
    described,
    same_request,
)
from brie_convert.outputs.gguf_adapter import GgufAdapterOutput
from brie_convert.outputs.gguf_model import GgufModelOutput
from brie_convert.outputs.merged_folder import MergedFolderOutput
from brie_convert.outputs.options import check_options
from brie_convert.outputs.peft_archive import PeftArchiveOutput
from brie_convert.progress import Progress
from brie_convert.room import check_room, free_bytes
from brie_core.durable import publish_folder, staging_folder
from brie_core.errors import Conflict, InvalidAdapter
from brie_core.store.adapters import MANIFEST as FACTS
from brie_core.store.adapters import adapter_digest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, open_base_model, read_json
from brie_core.weights.lora import LoraAdapter, check_values, read_adapter


class Output(Protocol):
    """One format of one request, after everything that may be refused was."""

    def most_bytes(self) -> int:
        """What building it takes on the disk at most, scratch included, to within a few per cent."""
        ...

    def build(self, folder: Path, scratch: Path, progress: Progress) -> Made:
        """Write and verify the files in `folder`; raises a BrieError."""
        ...


_FORMATS: Mapping[str, Callable[[ExportRequest, Sources], Output]] = {
    "gguf": GgufModelOutput,
    "gguf_adapter": GgufAdapterOutput,
    "merged": MergedFolderOutput,
    "peft": PeftArchiveOutput,
}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What now lies in the output folder, the main file first and the manifest last."""

    files: tuple[ExportedFile, ...]
    manifest: Mapping[str, Any]


def export(request: ExportRequest, progress: Progress) -> ExportResult:
    """Run the whole pipeline; raises a BrieError, and then nothing is in the output.

    An output that is there already is returned if the same request made it, else Conflict is raised.
    """
    check_options(request)
    if request.output.exists():
        return _published(request)
    progress("reading base and adapter", 0.0)
    sources = _read(request)
    output = _FORMATS[request.format](request, sources)
    shutil.rmtree(request.work, ignore_errors=True)
    with staging_folder(request.work, "export") as staged, ThreadPoolExecutor(1) as aside:
        check_room(output.most_bytes(), free_bytes(staged))
        checked = aside.submit(_check_digest, request.base, staged)
        built = staged / "output"
        built.mkdir()
        try:
            made = output.build(built, staged, progress)
        finally:
            checked.result()  # whatever else went wrong: over another base it had to
        _describe(request, sources, made, built)
        progress("publishing", 0.99)
        if not publish_folder(built, request.output):
            return _published(request)  # another run of the same export was faster
    return _result(request.output)


def _read(request: ExportRequest) -> Sources:
    version = request.adapter
    if version is None:
        return Sources(Tokenizer(request.base.folder), None, {})
    adapter = _adapter(request)
    manifest = version.folder / FACTS
    facts = read_json(manifest) if manifest.is_file() else {}
    template = version.folder / "chat_template.jinja"
    own = template.read_text() if template.is_file() else facts.get("chat_template")
    return Sources(Tokenizer(request.base.folder, own), adapter, facts)


def _adapter(request: ExportRequest) -> LoraAdapter:
    assert request.adapter is not None
    adapter = read_adapter(request.adapter.folder, request.base.linear_modules)
    check_values(adapter)
    if adapter_digest(adapter, request.base.digest) != request.adapter.version:
        raise InvalidAdapter(
            f"Adapter version {request.adapter.version[:12]} is damaged on disk: it will not be exported.",
            param="model",
            code="adapter_corrupt",
        )
    return adapter


def _check_digest(base: BaseModel, scratch: Path) -> None:
    """The manifest vouches for the base, so its bytes are read afresh and not looked up."""
    found = open_base_model(base.id, base.folder, scratch / "digests.json").digest
    if found != base.digest:
        raise Conflict(
            f"The base model {base.id} has changed on disk since the export was asked for: ask for it again.",
            param="model",
            code="base_changed",
        )


def _describe(request: ExportRequest, sources: Sources, made: Made, folder: Path) -> None:
    """The card tells what the manifest does of the files, and the manifest has the card's digest."""
    manifest = describe(request, sources, made, folder)
    evaluation = request.adapter.evaluation if request.adapter else None
    (folder / CARD).write_text(card(manifest, sources.facts, evaluation))
    manifest["files"].append(asdict(described(folder / CARD)))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _published(request: ExportRequest) -> ExportResult:
    file = request.output / MANIFEST
    manifest = read_json(file) if file.is_file() else {}
    if not same_request(request, manifest):
        raise Conflict(f"{request.output.name} holds something else already.", param="output", code="output_exists")
    return _result(request.output)


def _result(output: Path) -> ExportResult:
    manifest = read_json(output / MANIFEST)
    files = (ExportedFile(**file) for file in manifest["files"])
    return ExportResult((*files, described(output / MANIFEST)), manifest)

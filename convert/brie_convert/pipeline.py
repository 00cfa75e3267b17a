"""Base, adapter and quantization in; a folder with one verified GGUF file and its manifest out. It knows no job.

Everything is built in a work folder on the same file system as the output, and appears there by one rename: whatever
kills an export, the output is whole or it is not there.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_convert.architecture import read_architecture
from brie_convert.gguf_file import Advance, Contents, write_gguf
from brie_convert.judgement import Judge
from brie_convert.manifest import MANIFEST, ExportRequest, Parts, describe, same_request
from brie_convert.metadata import Value, header
from brie_convert.plan import check_tied, plan_tensors
from brie_convert.proof import importance, proving
from brie_convert.quality import Divergence
from brie_convert.quantize import STREAMED, check_quantization, file_type, quantize
from brie_convert.verify import verify
from brie_convert.vocabulary import read_vocabulary
from brie_core.durable import publish_folder, staging_folder
from brie_core.errors import Conflict, InvalidAdapter
from brie_core.store.adapters import adapter_digest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, open_base_model, read_json
from brie_core.weights.lora import LoraAdapter, check_values, read_adapter

Progress = Callable[[str, float], None]
"""Told what is being done, and how much of the whole, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file of the output."""

    filename: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What now lies in the output folder."""

    files: tuple[ExportedFile, ...]
    manifest: Mapping[str, Any]


def export(request: ExportRequest, progress: Progress) -> ExportResult:
    """Run the whole pipeline; raises a BrieError, and then nothing is in the output.

    An output that is there already is returned if the same request made it, else Conflict is raised.
    """
    check_quantization(request.quantization)
    if request.output.exists():
        return _published(request)
    progress("reading base and adapter", 0.0)
    parts = _read(request)
    shutil.rmtree(request.work, ignore_errors=True)
    with staging_folder(request.work, "export") as staged:
        _check_digest(request.base, staged)
        built = staged / "output"
        built.mkdir()
        manifest = _build(request, parts, built, progress)
        progress("publishing", 0.99)
        if not publish_folder(built, request.output):
            return _published(request)  # another run of the same export was faster
    return _result(manifest)


def _read(request: ExportRequest) -> Parts:
    base = request.base
    architecture = read_architecture(base.config)
    tensors = plan_tensors(architecture, base.tensors, _adapter(request), STREAMED.get(request.quantization))
    check_tied(architecture, base.tensors)
    tokenizer = Tokenizer(base.folder)
    vocabulary = read_vocabulary(base.folder, tokenizer, rows=tensors[0].source.shape[0])
    return Parts(architecture, vocabulary, tokenizer, tensors)


def _adapter(request: ExportRequest) -> LoraAdapter | None:
    if request.adapter is None:
        return None
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


def _build(request: ExportRequest, parts: Parts, folder: Path, progress: Progress) -> dict[str, Any]:
    file = folder / file_name(request.model, request.quantization)
    with proving(request, parts, folder.parent / "reference") as judge:
        fallbacks, before = _write(request, parts, file, judge, progress)
        progress("verifying against llama.cpp", 0.9)
        verification = verify(file, parts.tokenizer, parts.vocabulary)
        progress("comparing with transformers", 0.92)
        account = judge.account(judge.compare(file), before)
    manifest = account.added_to(describe(request, parts, file, verification, fallbacks))
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _write(
    request: ExportRequest, parts: Parts, file: Path, judge: Judge, progress: Progress
) -> tuple[int, Divergence | None]:
    """The file in one pass, or in two through llama.cpp's quantizer.

    Returns the quantizer's fallbacks, and how far from the model it was before.
    """
    if request.quantization in STREAMED:
        _stream(request, parts, file, _span(progress, "merging and writing", 0.05, 0.9))
        return 0, None
    # The checkpoint's own numbers, f32 where the adapter was merged: nothing is rounded before the quantizer sees it.
    exact = file.parent.parent / "exact.gguf"
    _stream(request, parts, exact, _span(progress, "merging and writing", 0.05, 0.4))
    advance = _span(progress, f"quantizing to {request.quantization}", 0.4, 0.9)
    fallbacks = quantize(exact, file, request.quantization, advance, importance(judge, parts))
    before = judge.compare(exact)  # so that a fault of ours cannot pass for the quantizer's rounding
    exact.unlink()
    return fallbacks, before


def _stream(request: ExportRequest, parts: Parts, file: Path, advance: Advance) -> None:
    shapes = (tensor.source.shape for tensor in parts.tensors)
    parameters = sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in shapes)
    kind = file_type(request.quantization if request.quantization in STREAMED else "f32")
    fields = header(parts.architecture, parts.vocabulary, _origin(request), parameters, kind)
    contents = Contents(parts.architecture.family, fields, parts.tensors, parts.architecture.rope_factors)
    write_gguf(file, contents, advance)


def _origin(request: ExportRequest) -> dict[str, Value]:
    """Names and digests; never a path, which would tell a stranger about this machine."""
    origin: dict[str, Value] = {
        "general.name": request.model,
        "brie.base_model": Path(request.base.id).name,
        "brie.base_model.digest": request.base.digest,
    }
    if request.adapter:
        origin["brie.adapter.version"] = request.adapter.version
    return origin


def _span(progress: Progress, message: str, start: float, end: float) -> Advance:
    """A part of the whole, told at each tenth of it and not at each tensor."""
    told = -1

    def advance(fraction: float) -> None:
        nonlocal told
        if int(fraction * 10) > told:
            told = int(fraction * 10)
            progress(message, round(start + fraction * (end - start), 3))

    return advance


def _published(request: ExportRequest) -> ExportResult:
    file = request.output / MANIFEST
    manifest = read_json(file) if file.is_file() else {}
    if not same_request(request, manifest):
        raise Conflict(f"{request.output.name} holds something else already.", param="output", code="output_exists")
    return _result(manifest)


def _result(manifest: Mapping[str, Any]) -> ExportResult:
    return ExportResult(tuple(ExportedFile(**file) for file in manifest["files"]), manifest)


def file_name(model: str, quantization: str) -> str:
    """A name for the file that every file system takes: `ft:smollm2:brie:x` in q8_0 is ft-smollm2-brie-x-q8_0.gguf."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:150]
    return f"{safe or 'model'}-{quantization}.gguf"

"""What an export is asked for, and the record of what it made. It knows digests and versions, not how a file is made.

Nobody types anything here: every number is read from a file or was returned by a check.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from brie_convert.architecture import Architecture
from brie_convert.gguf_file import tally
from brie_convert.judgement import stored_in_words
from brie_convert.plan import TensorPlan
from brie_convert.texts import texts_digest
from brie_convert.verify import Verification
from brie_convert.vocabulary import Vocabulary
from brie_core import __version__
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, file_digest

MANIFEST = "manifest.json"
_LIBRARIES = ("gguf", "llama-cpp-python", "numpy", "tokenizers")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """One adapter version: its digest in the store, and where it lies."""

    version: str
    folder: Path


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """All that an export needs to know."""

    model: str
    """The served name; it names the file, and the model inside the file."""
    base: BaseModel
    adapter: AdapterFolder | None
    quantization: str
    output: Path
    """The folder to be made; its parent lies on the same file system as `work`."""
    work: Path
    """Scratch of this export alone: emptied before and after."""
    texts: tuple[str, ...] = ()
    """Of the model's own kind: some are judged on, others make the importance matrix."""
    rows: Path | None = None
    """The same as a file of training rows, JSON Lines, which are rendered through the chat template."""
    compare: bool = True
    """Whether the file's logits are compared with those of transformers and PEFT."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The request, read and found sound."""

    architecture: Architecture
    vocabulary: Vocabulary
    tokenizer: Tokenizer
    tensors: tuple[TensorPlan, ...]


def describe(
    request: ExportRequest, parts: Parts, file: Path, verification: Verification, fallbacks: int
) -> dict[str, Any]:
    """The manifest of a finished `file`."""
    written = tally(file)
    return {
        **_identity(request),
        "architecture": parts.architecture.family,
        "inputs": _inputs(request, parts),
        "files": [{"filename": file.name, "bytes": file.stat().st_size, "sha256": file_digest(file)}],
        "tensors": {
            "types": dict(written.types),
            "fallbacks": fallbacks,
            "parameters": written.parameters,
            "bits_per_weight": round(written.bits_per_weight, 3),
            "stored": stored_in_words(request.quantization, written, fallbacks),
        },
        "verification": asdict(verification),
        "versions": _versions(),
    }


def same_request(request: ExportRequest, manifest: Mapping[str, Any]) -> bool:
    """Whether `manifest` is of a file that this request would make again."""
    identity = _identity(request)
    return {name: manifest.get(name) for name in identity} == identity


def _identity(request: ExportRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "quantization": request.quantization,
        "base": {"id": request.base.id, "digest": request.base.digest},
        "adapter": {"version": request.adapter.version} if request.adapter else None,
        "texts": _texts(request),
    }


def _texts(request: ExportRequest) -> dict[str, str | None] | None:
    """Digests of what was given to judge and calibrate on; never the texts, which may be private."""
    if not request.texts and request.rows is None:
        return None
    rows = file_digest(request.rows) if request.rows and request.rows.is_file() else None
    return {"sha256": texts_digest(request.texts), "rows_sha256": rows}


def _inputs(request: ExportRequest, parts: Parts) -> dict[str, Any]:
    template, adapter = parts.vocabulary.chat_template, request.adapter
    return {
        "base": request.base.digest,
        "config": file_digest(request.base.folder / "config.json"),
        "tokenizer": parts.tokenizer.digest,
        "chat_template": hashlib.sha256(template.encode()).hexdigest() if template else None,
        "adapter": {name: file_digest(adapter.folder / name) for name in _ADAPTER_FILES} if adapter else None,
    }


def _versions() -> dict[str, str]:
    own = {"brie": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in _LIBRARIES}

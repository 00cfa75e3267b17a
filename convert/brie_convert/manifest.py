"""What an export is asked for, and the record of what it made. It knows digests and versions, not how a file is made.

Nobody types anything here: every number is read from a file or was returned by a check.
"""

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from brie_convert.architecture import Architecture
from brie_convert.plan import TensorPlan
from brie_convert.texts import texts_digest
from brie_convert.vocabulary import Vocabulary
from brie_core import __version__
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, file_digest
from brie_core.weights.lora import LoraAdapter

MANIFEST = "manifest.json"
_LIBRARIES = ("gguf", "llama-cpp-python", "numpy", "tokenizers")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """One adapter version: its digest in the store, and where it lies."""

    version: str
    folder: Path
    evaluation: str | None = None
    """The card's section on how it was evaluated, in Markdown."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """All that an export needs to know."""

    model: str
    """The served name; it names the file, and the model inside the file."""
    base: BaseModel
    adapter: AdapterFolder | None
    quantization: str | None
    """Of the format gguf; None for every other."""
    output: Path
    """The folder to be made; its parent lies on the same file system as `work`."""
    work: Path
    """Scratch of this export alone: emptied before and after."""
    format: str = "gguf"
    """One of `brie_core.export_names.FORMATS`."""
    dtype: str | None = None
    """Of the format merged: what the weights are stored as; None keeps the checkpoint's own."""
    texts: tuple[str, ...] = ()
    """Of the model's own kind: some are judged on, others make the importance matrix."""
    rows: Path | None = None
    """The same as a file of training rows, JSON Lines, which are rendered through the chat template."""
    compare: bool = True
    """Whether the file's logits are compared with those of transformers and PEFT."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The request's base and adapter, read and found sound."""

    tokenizer: Tokenizer
    """The base's, with the adapter's chat template if it has one of its own."""
    adapter: LoraAdapter | None
    facts: Mapping[str, Any]
    """The adapter version's brie.json; empty without one."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a GGUF file of a whole model is made of."""

    architecture: Architecture
    vocabulary: Vocabulary
    tokenizer: Tokenizer
    tensors: tuple[TensorPlan, ...]

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor.source.shape) for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Made:
    """What one format has put into the output folder."""

    files: Sequence[str]
    """By name, the main one first."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says of them, `verification` among it."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file of the output."""

    filename: str
    bytes: int
    sha256: str


def describe(request: ExportRequest, sources: Sources, made: Made, folder: Path) -> dict[str, Any]:
    """The manifest of what lies in `folder`, but for its list of files."""
    return {
        **_identity(request),
        **made.facts,
        "inputs": _inputs(request, sources),
        "versions": _versions(),
        "files": [asdict(described(folder / name)) for name in made.files],
    }


def described(file: Path) -> ExportedFile:
    """Its size and digest, read from the disk."""
    return ExportedFile(file.name, file.stat().st_size, file_digest(file))


def same_request(request: ExportRequest, manifest: Mapping[str, Any]) -> bool:
    """Whether `manifest` is of an output that this request would make again."""
    identity = _identity(request)
    return {name: manifest.get(name) for name in identity} == identity


def _identity(request: ExportRequest) -> dict[str, Any]:
    return {
        "model": request.model,
        "format": request.format,
        "quantization": request.quantization,
        "dtype": request.dtype,
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


def _inputs(request: ExportRequest, sources: Sources) -> dict[str, Any]:
    template, adapter = sources.tokenizer.chat_template, request.adapter
    return {
        "base": request.base.digest,
        "config": file_digest(request.base.folder / "config.json"),
        "tokenizer": sources.tokenizer.digest,
        "chat_template": hashlib.sha256(template.source.encode()).hexdigest() if template else None,
        "adapter": {name: file_digest(adapter.folder / name) for name in _ADAPTER_FILES} if adapter else None,
    }


def _versions() -> dict[str, str]:
    own = {"brie": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in _LIBRARIES}

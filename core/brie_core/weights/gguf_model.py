"""A base model as one GGUF file: its name, its digests, its linear layers. It knows no llama.cpp."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from brie_core.errors import BadConfiguration
from brie_core.weights.base_model import BaseModel, file_digests, read_json
from brie_core.weights.gguf_header import BrokenGgufFile, GgufHeader, read_gguf_header
from brie_core.weights.gguf_layout import REGROUPED, module_of

MANIFEST = "manifest.json"
"""What an export writes beside its file."""


@dataclass(frozen=True)
class GgufModel:
    """One base model that llama.cpp runs."""

    id: str
    """The name it is served under: the file's, without `.gguf`."""
    file: Path
    digest: str
    """Of the base that adapters belong to: for an export of a plain base that base's own, else the file's."""
    weights_digest: str
    """sha256 of the file."""
    header: GgufHeader

    @property
    def family(self) -> str:
        """The architecture, in llama.cpp's words."""
        return self.header.text("general.architecture")

    @cached_property
    def linear_modules(self) -> Mapping[str, tuple[int, int]]:
        """The layers a LoRA adapter may change, by their Hugging Face names, each with its (out, in).

        None for an architecture whose layers are not known one by one: adapters are then refused.
        """
        if self.family not in REGROUPED:
            return {}
        named = ((module_of(tensor.name), tensor.shape) for tensor in self.header.tensors)
        return {name: (shape[0], shape[1]) for name, shape in named if name and len(shape) == 2}

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.header.number(f"{self.family}.attention.head_count")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; as many as there are heads where the file says nothing."""
        kv_heads = self.header.fields.get(f"{self.family}.attention.head_count_kv")
        return int(kv_heads) if isinstance(kv_heads, int) else self.heads


ServedModel = BaseModel | GgufModel
"""What an API may answer from."""


def open_gguf_model(file: Path, digests: Path) -> GgufModel:
    """The model in `file`; its digest is remembered in the file `digests`. Raises BadConfiguration."""
    try:
        header = read_gguf_header(file)
        header.text("general.architecture")
        (weights_digest,) = file_digests([file], digests)
    except (OSError, BrokenGgufFile) as error:
        raise BadConfiguration(f"{file} cannot be served: {error}.") from error
    if header.fields.get("general.type") == "adapter":
        raise BadConfiguration(f"{file} is an adapter: serve its base's GGUF file, and load the adapter there.")
    if int(header.fields.get("split.count", 1)) > 1:
        raise BadConfiguration(f"{file} is one of several parts of a model: join them with llama-gguf-split --merge.")
    base_digest = _exported_base(file, weights_digest) or weights_digest
    return GgufModel(file.stem, file, base_digest, weights_digest, header)


def _exported_base(file: Path, weights_digest: str) -> str | None:
    """The digest of the plain base that `file` was exported from, if the manifest beside it vouches for these bytes."""
    manifest = _manifest(file.parent / MANIFEST)
    files = manifest.get("files") or ()
    vouched = any(entry.get("filename") == file.name and entry.get("sha256") == weights_digest for entry in files)
    if not vouched or manifest.get("adapter") is not None:
        return None
    digest = (manifest.get("base") or {}).get("digest")
    return digest if isinstance(digest, str) else None


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}

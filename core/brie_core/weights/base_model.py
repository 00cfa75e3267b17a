"""A base model as a Hugging Face folder: its config, its linear layers, its digest. It knows no forward pass."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from brie_core.durable import write_file
from brie_core.errors import BadConfiguration
from brie_core.weights.safetensors import TensorInfo, checkpoint_files, read_checkpoint

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text")
"""By model_type; the torch engine says itself which of them it runs."""
_LINEAR = re.compile(r"(model\.layers\.\d+\.(?:self_attn|mlp)\.[a-z]+_proj)\.weight")


@dataclass(frozen=True)
class BaseModel:
    """One base model on disk; everything about it is read when first asked for."""

    id: str
    """The name it is served under."""
    folder: Path
    digest: str
    """sha256 over its weight files: two bases with one digest are the same base."""

    @property
    def weights_digest(self) -> str:
        """Of what is computed with, which here are the same bytes."""
        return self.digest

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the checkpoint by its name there."""
        return read_checkpoint(self.folder)

    @cached_property
    def linear_modules(self) -> Mapping[str, tuple[int, int]]:
        """The layers a LoRA adapter may change, each with its (out, in)."""
        modules = {}
        for name, tensor in self.tensors.items():
            if (match := _LINEAR.fullmatch(name)) and len(tensor.shape) == 2:
                modules[match[1]] = (tensor.shape[0], tensor.shape[1])
        return modules

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self.config["max_position_embeddings"])


def open_base_model(model_id: str, folder: Path, digests: Path) -> BaseModel:
    """The base model in `folder`; its digest is remembered in the file `digests`. Raises BadConfiguration."""
    try:
        config = read_json(folder / "config.json")
        files = list(checkpoint_files(folder))
    except (OSError, ValueError, KeyError) as error:
        raise BadConfiguration(
            f"{folder} is not a usable Hugging Face model folder ({error}): "
            "it needs config.json, tokenizer.json and safetensors weights."
        ) from error
    if config.get("model_type") not in FAMILIES:
        raise BadConfiguration(
            f"{model_id} is of the family {config.get('model_type')!r}; Brie knows {', '.join(FAMILIES)}."
        )
    return BaseModel(model_id, folder, _digest(files, digests))


def read_json(file: Path) -> dict[str, Any]:
    """One JSON object from a file; raises ValueError if it is anything else."""
    value = json.loads(file.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} is not an object")
    return value


def file_digest(file: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(files: list[Path], digests: Path) -> str:
    """sha256 over the files' own digests."""
    return hashlib.sha256("\n".join(file_digests(files, digests)).encode()).hexdigest()


def file_digests(files: Iterable[Path], digests: Path) -> list[str]:
    """sha256 of each file, which is read once for as long as its size and time stay as the file `digests` has them."""
    known: dict[str, str] = _remembered(digests)
    current = {}
    for file in files:
        stat = file.resolve().stat()
        key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        current[key] = known.get(key) or file_digest(file)
    if current.keys() - known.keys():
        digests.parent.mkdir(parents=True, exist_ok=True)
        write_file(digests, json.dumps(known | current, indent=1).encode())
    return list(current.values())


def _remembered(digests: Path) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in read_json(digests).items()}
    except (OSError, ValueError):
        return {}

"""A checkpoint in several files gives the bytes that it gives in one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from brie_core.weights.base_model import BaseModel
from brie_core.weights.safetensors import BrokenTensorFile


def _split(base: BaseModel, folder: Path) -> BaseModel:
    shutil.copytree(base.folder, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"model-{part + 1:05}-of-00003.safetensors": names[part::3] for part in range(3)}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    places = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return BaseModel(base.id, folder, base.digest)


def test_shards_are_read_as_one(
    checkpoint: Callable[[str], BaseModel], write_file: Callable[..., Path], tmp_path: Path
) -> None:
    base = checkpoint("gemma3")
    whole = write_file(base).read_bytes()
    assert write_file(_split(base, tmp_path / "shards")).read_bytes() == whole


def test_a_lost_shard_is_named(checkpoint: Callable[[str], BaseModel], tmp_path: Path) -> None:
    base = _split(checkpoint("gemma3"), tmp_path / "shards")
    (base.folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BrokenTensorFile, match="model-00002-of-00003"):
        _ = base.tensors

"""A whole export: what the output holds, what the manifest vouches for, and that a failure leaves nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from brie_convert.file_names import safe_name
from brie_convert.gguf_file import tally
from brie_convert.manifest import AdapterFolder, ExportRequest
from brie_convert.outputs import gguf_model
from brie_convert.pipeline import export
from brie_core.errors import BrieError, Conflict, EngineFailure, InvalidAdapter, InvalidRequest
from brie_core.store.adapters import adapter_digest
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.lora import read_adapter

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., Any]
Request = Callable[..., ExportRequest]
WriteAdapter = Callable[[BaseModel, Path], Path]


def _ignore(_message: str, _fraction: float) -> None: ...


def _assert_refused(request: ExportRequest, error: type[BrieError], code: str) -> None:
    with pytest.raises(error) as caught:
        export(request, _ignore)
    assert caught.value.code == code
    assert not request.output.exists()
    assert not request.work.exists() or not any(request.work.iterdir())


def test_the_manifest_tells_what_went_in_and_what_came_out(
    checkpoint: Checkpoint, run_export: Export, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    base = checkpoint("llama")
    adapter = write_adapter(base, tmp_path / "adapter")
    file, result = run_export(base, "q4_k_m", adapter)
    manifest = json.loads((file.parent / "manifest.json").read_text())
    weights = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    names = ["ft-tiny-brie-test-q4_k_m.gguf", "Modelfile", "README.md", "manifest.json"]
    assert [entry.filename for entry in result.files] == names
    assert {path.name for path in file.parent.iterdir()} == set(names)
    for entry in result.files:
        assert entry.sha256 == hashlib.sha256((file.parent / entry.filename).read_bytes()).hexdigest()
    assert manifest["files"] == [asdict(entry) for entry in result.files[:-1]]
    assert manifest["inputs"]["base"] == base.digest
    assert manifest["inputs"]["adapter"]["adapter_model.safetensors"] == weights
    assert manifest["adapter"] == {"version": adapter_digest(read_adapter(adapter, base.linear_modules), base.digest)}
    assert manifest["tensors"]["types"] == tally(file).types
    assert manifest["verification"]["texts"] == 3000
    assert manifest["versions"]["gguf"]


def test_one_request_always_makes_the_same_bytes_and_none_of_them_a_path(
    checkpoint: Checkpoint, run_export: Export, tmp_path: Path
) -> None:
    first, _ = run_export(checkpoint("qwen3"), "q8_0")
    data = first.read_bytes()
    shutil.rmtree(first.parent)
    assert run_export(checkpoint("qwen3"), "q8_0")[0].read_bytes() == data
    assert b"ft:tiny:brie:test" in data
    assert str(tmp_path.parent.parent).encode() not in data


def test_an_output_that_is_there_is_given_again_and_never_replaced(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(checkpoint("llama"), "f16")
    first = export(request, _ignore)
    monkeypatch.setattr(gguf_model, "verify", None)  # whoever runs again would stumble over this
    assert export(request, _ignore).files == first.files
    with pytest.raises(Conflict, match="something else"):
        export(replace(request, model="other"), _ignore)


def test_an_unknown_quantization_is_refused(checkpoint: Checkpoint, request_for: Request) -> None:
    _assert_refused(request_for(checkpoint("llama"), "q3"), InvalidRequest, "unsupported_quantization")


def test_an_unknown_family_is_refused(checkpoint: Checkpoint, request_for: Request, tmp_path: Path) -> None:
    base = _copy(checkpoint("llama"), tmp_path)
    config = json.loads((base.folder / "config.json").read_text()) | {"model_type": "gemma3_text"}
    (base.folder / "config.json").write_text(json.dumps(config))
    _assert_refused(request_for(replace(base), "f16"), InvalidRequest, "unsupported_architecture")


def test_a_truncated_adapter_is_refused(
    checkpoint: Checkpoint, request_for: Request, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    adapter = write_adapter(checkpoint("llama"), tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    _assert_refused(request_for(checkpoint("llama"), "f16", adapter), InvalidAdapter, "adapter_weights_corrupt")


def test_an_adapter_with_nan_is_refused(
    checkpoint: Checkpoint, request_for: Request, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    adapter = write_adapter(checkpoint("llama"), tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, adapter / "adapter_model.safetensors")
    _assert_refused(request_for(checkpoint("llama"), "f16", adapter), InvalidAdapter, "adapter_not_finite")


def test_an_adapter_that_is_not_the_version_it_is_called_is_refused(
    checkpoint: Checkpoint, request_for: Request, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    adapter = AdapterFolder("a" * 64, write_adapter(checkpoint("llama"), tmp_path / "adapter"))
    request = replace(request_for(checkpoint("llama"), "f16"), adapter=adapter)
    _assert_refused(request, InvalidAdapter, "adapter_corrupt")


def test_weights_beyond_f16_are_refused_with_their_name(
    checkpoint: Checkpoint, request_for: Request, tmp_path: Path
) -> None:
    base = _copy(checkpoint("llama"), tmp_path)
    tensors = load_file(base.folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = 1e5
    save_file(tensors, base.folder / "model.safetensors")
    base = open_base_model(base.id, base.folder, tmp_path / "digests.json")
    _assert_refused(request_for(base, "f16"), InvalidRequest, "weights_out_of_range")
    assert export(request_for(base, "bf16"), _ignore).files


def test_a_base_that_changed_since_is_refused(checkpoint: Checkpoint, request_for: Request) -> None:
    base = checkpoint("llama")
    _assert_refused(request_for(BaseModel(base.id, base.folder, "0" * 64), "f16"), Conflict, "base_changed")


def test_a_file_that_fails_its_verification_is_not_published(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise EngineFailure("differs", code="export_verification_failed")

    monkeypatch.setattr(gguf_model, "verify", fail)
    _assert_refused(request_for(checkpoint("llama"), "q4_0"), EngineFailure, "export_verification_failed")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("ft:smollm2:brie:philosophy:ckpt-step-10", "ft-smollm2-brie-philosophy-ckpt-step-10"),
        ("Qwen/Qwen2.5-0.5B", "Qwen-Qwen2.5-0.5B"),
        ("../../etc", "etc"),
        ("::", "model"),
    ],
)
def test_any_model_name_makes_a_safe_file_name(model: str, name: str) -> None:
    assert safe_name(model) == name


def _copy(base: BaseModel, folder: Path) -> BaseModel:
    shutil.copytree(base.folder, folder / "copy")
    return BaseModel(base.id, folder / "copy", base.digest)

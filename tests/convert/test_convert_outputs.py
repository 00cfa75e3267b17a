"""The formats besides one GGUF file: what transformers, PEFT and llama.cpp read out of them."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from brie_convert.architecture import read_architecture
from brie_convert.llama_runtime import open_file
from brie_convert.manifest import ExportRequest, Sources
from brie_convert.outputs.gguf_adapter import read_back
from brie_convert.outputs.merged_folder import MergedFolderOutput
from brie_convert.pipeline import export
from brie_core.errors import BrieError, EngineFailure, InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.gguf_adapter import write_gguf_adapter
from brie_core.weights.lora import read_adapter
from logits import adapt, divergence, llama_cpp_logits, load, torch_logits

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., Any]
Request = Callable[..., ExportRequest]
WriteAdapter = Callable[[BaseModel, Path], Path]
WriteFile = Callable[..., Path]

_TOKENS = [int(token) for token in np.random.default_rng(0).integers(4, 600, 128)]
_ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 16},
    "patterns": {"alpha_pattern": {"k_proj": 64}, "rank_pattern": {r"layers\.1\.mlp\.down_proj": 2}},
}


def _ignore(_message: str, _fraction: float) -> None: ...


_OVER = [(name, kind) for name in ("llama", "qwen2") for kind in _ADAPTERS]
_OVER += [(name, "patterns") for name in ("mistral", "qwen3", "gemma2", "gemma3")]


@pytest.mark.parametrize("case", _OVER, ids="-".join)
def test_a_gguf_adapter_answers_over_its_base_as_in_peft(
    checkpoint: Checkpoint, run_export: Export, write_file: WriteFile, tmp_path: Path, case: tuple[str, str]
) -> None:
    name, kind = case
    base = checkpoint(name)
    adapted = adapt(base.folder, tmp_path / "adapter", _ADAPTERS[kind])
    file, result = run_export(base, None, tmp_path / "adapter", format="gguf_adapter")
    wanted, plain = torch_logits(adapted, _TOKENS), torch_logits(load(base.folder), _TOKENS)
    over = write_file(base, "f16")
    found = llama_cpp_logits(over, _TOKENS, file)
    assert divergence(wanted, plain).mean() > 0.01
    assert divergence(wanted, found).mean() < 1e-4
    assert divergence(plain, llama_cpp_logits(over, _TOKENS)).mean() < 1e-4
    told = result.manifest["verification"]
    assert told["tensors"] == 2 * len(read_adapter(tmp_path / "adapter", base.linear_modules).modules)
    assert told["largest_difference"] < 1e-6
    assert {entry.filename for entry in result.files} == {file.name, "README.md", "manifest.json"}
    assert b"ft:tiny:brie:test" in file.read_bytes()
    assert str(tmp_path).encode() not in file.read_bytes()


def test_reading_a_gguf_adapter_back_finds_rows_that_were_not_regrouped_and_a_lost_scale(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    base = checkpoint("llama")
    adapt(base.folder, tmp_path / "adapter", _ADAPTERS["rslora"])
    adapter = read_adapter(tmp_path / "adapter", base.linear_modules)
    architecture = read_architecture(base.config)
    file = tmp_path / "adapter.gguf"
    write_gguf_adapter(file, adapter, architecture)
    assert read_back(file, adapter, architecture) < 1e-6
    with pytest.raises(EngineFailure, match=r"[qk]_proj is off"):
        read_back(file, adapter, replace(architecture, family="qwen2"))
    plain = replace(adapter, modules=tuple(replace(m, scale=m.scale / 4) for m in adapter.modules))
    with pytest.raises(EngineFailure, match="is off by"):
        read_back(file, plain, architecture)
    fewer = replace(adapter, modules=adapter.modules[1:])
    with pytest.raises(EngineFailure, match="in place of"):
        read_back(file, fewer, architecture)


@pytest.mark.parametrize("kind", list(_ADAPTERS))
def test_a_merged_folder_answers_in_transformers_as_peft(
    checkpoint: Checkpoint, run_export: Export, tmp_path: Path, kind: str
) -> None:
    base = checkpoint("llama3")
    adapted = adapt(base.folder, tmp_path / "adapter", _ADAPTERS[kind])
    main, result = run_export(base, None, tmp_path / "adapter", format="merged")
    assert main.name == "model.safetensors"
    merged = load(main.parent)
    wanted = torch_logits(adapted, _TOKENS)
    assert divergence(wanted, torch_logits(load(base.folder), _TOKENS)).mean() > 0.01
    assert divergence(wanted, torch_logits(merged, _TOKENS)).mean() < 1e-9
    assert result.manifest["verification"]["merged"] == 14
    served = open_base_model("merged", main.parent, tmp_path / "digests.json")
    assert Tokenizer(served.folder).digest == Tokenizer(base.folder).digest
    assert json.loads((main.parent / "config.json").read_text())["dtype"] == "float32"
    assert "_name_or_path" not in json.loads((main.parent / "config.json").read_text())


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_merged_folder_is_stored_in_the_dtype_that_was_asked_for(
    checkpoint: Checkpoint, run_export: Export, tmp_path: Path, dtype: str
) -> None:
    import transformers

    name, bound = {"bf16": ("bfloat16", 1e-2), "f16": ("float16", 1e-4)}[dtype]
    base = checkpoint("qwen3")
    adapted = adapt(base.folder, tmp_path / "adapter", {})
    main, result = run_export(base, None, tmp_path / "adapter", format="merged", dtype=dtype)
    assert result.manifest["dtypes"] == [dtype.upper()]
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(main.parent)
    assert loaded.dtype is getattr(torch, name)
    assert divergence(torch_logits(adapted, _TOKENS), torch_logits(loaded.to(torch.float32), _TOKENS)).mean() < bound


def test_a_merged_folder_in_shards_is_the_same_model(
    checkpoint: Checkpoint, request_for: Request, tmp_path: Path
) -> None:
    base = checkpoint("qwen2")
    adapt(base.folder, tmp_path / "adapter", {})
    adapter = read_adapter(tmp_path / "adapter", base.linear_modules)
    sources = Sources(Tokenizer(base.folder), adapter, {})
    request = request_for(base, None, tmp_path / "adapter", format="merged")
    folders = []
    for most in (10**9, 150_000):
        folders.append(tmp_path / str(most))
        folders[-1].mkdir()
        made = MergedFolderOutput(request, sources, most).build(folders[-1], tmp_path, _ignore)
        assert {path.name for path in folders[-1].iterdir()} == set(made.files)
    names = [path.name for path in folders[1].glob("model-*.safetensors")]
    assert len(names) > 2
    assert all(name.endswith(f"-of-{len(names):05d}.safetensors") for name in names)
    whole, parts = (load(folder).state_dict() for folder in folders)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_base_alone_is_copied_byte_by_byte(checkpoint: Checkpoint, run_export: Export) -> None:
    base = checkpoint("llama")
    main, _ = run_export(base, None, None, format="merged")
    written = open_base_model("copy", main.parent, main.parent.parent / "digests.json")
    assert {n: t.read_bytes() for n, t in written.tensors.items()} == {
        n: t.read_bytes() for n, t in base.tensors.items()
    }


def test_reading_a_merged_folder_back_finds_an_adapter_that_was_left_out(
    checkpoint: Checkpoint, request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brie_convert.outputs import merged_folder

    base = checkpoint("llama")
    adapt(base.folder, tmp_path / "adapter", {})
    monkeypatch.setattr(merged_folder, "_blocks_of", lambda tensor: lambda: merged_folder._copied(tensor.source))
    request = request_for(base, None, tmp_path / "adapter", format="merged")
    with pytest.raises(EngineFailure, match="is not the merged one"):
        export(request, _ignore)
    assert not request.output.exists()


def test_a_peft_archive_is_the_same_bytes_each_time_and_loads_in_peft(
    checkpoint: Checkpoint, request_for: Request, tmp_path: Path
) -> None:
    import peft

    base = checkpoint("llama")
    adapted = adapt(base.folder, tmp_path / "adapter", {})
    (tmp_path / "adapter" / "README.md").unlink(missing_ok=True)
    request = request_for(base, None, tmp_path / "adapter", format="peft")
    digests = []
    for name in ("one", "two"):
        result = export(replace(request, output=tmp_path / name), _ignore)
        digests.append(result.files[0].sha256)
        (tmp_path / "adapter" / "adapter_config.json").touch()
    assert digests[0] == digests[1]
    archive = tmp_path / "one" / result.files[0].filename
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        assert names == sorted(names)
        opened.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "ft-tiny-brie-test"
    for path in (tmp_path / "adapter").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    loaded = peft.PeftModel.from_pretrained(load(base.folder), str(folder))
    assert np.array_equal(torch_logits(loaded, _TOKENS), torch_logits(adapted, _TOKENS))


@pytest.mark.parametrize(
    ("options", "quantization", "refusal"),
    [
        ({"format": "onnx"}, None, ("format", None)),
        ({"format": "peft"}, None, ("model", "adapter_required")),
        ({"format": "gguf_adapter"}, None, ("model", "adapter_required")),
        ({"format": "merged"}, "q8_0", ("quantization", None)),
        ({"format": "peft"}, "q8_0", ("quantization", None)),
        ({"format": "merged", "dtype": "f8"}, None, ("dtype", None)),
        ({"format": "gguf", "dtype": "f16"}, "f16", ("dtype", None)),
        ({"format": "gguf"}, None, ("quantization", "unsupported_quantization")),
    ],
)
def test_options_that_do_not_go_with_the_format_are_refused(
    checkpoint: Checkpoint,
    request_for: Request,
    options: dict[str, Any],
    quantization: str | None,
    refusal: tuple[str, str | None],
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        export(request_for(checkpoint("llama"), quantization, **options), _ignore)
    assert (refused.value.param, refused.value.code) == refusal


def test_an_adapters_own_chat_template_goes_into_every_format(
    checkpoint: Checkpoint, run_export: Export, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    base = checkpoint("llama")
    adapter = write_adapter(base, tmp_path / "adapter")
    own = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}"
    )
    (adapter / "chat_template.jinja").write_text(own)
    file, result = run_export(base, "f16", adapter)
    with open_file(file, vocab_only=True) as loaded:
        assert loaded.chat_template() == own
    assert result.manifest["inputs"]["chat_template"] == hashlib.sha256(own.encode()).hexdigest()
    assert "[{{ .Role" not in (file.parent / "Modelfile").read_text()
    assert "[user] {{ .Content }}\n" in (file.parent / "Modelfile").read_text()
    main, _ = run_export(base, None, adapter, format="merged")
    assert (main.parent / "chat_template.jinja").read_text() == own


def test_a_disk_without_room_is_told_before_anything_is_written(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    request = request_for(checkpoint("llama"), "f16")
    with pytest.raises(BrieError) as refused:
        export(request, _ignore)
    assert refused.value.code == "insufficient_storage"
    assert not request.output.exists()

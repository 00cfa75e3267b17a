"""Where llama.cpp is easily used wrongly: caches across adapters, NULLs, what is not LoRA, long tokens, scales."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from brie_core.errors import InvalidAdapter
from brie_core.weights.gguf_adapter import write_gguf_adapter
from brie_core.weights.gguf_model import GgufModel
from brie_core.weights.lora import read_adapter
from brie_server.engine.llamacpp.codec import GgufCodec
from brie_server.engine.llamacpp.engine import LlamaCppEngine
from brie_server.engine.llamacpp.model import Context, Model, Shape
from server.engine.asking import answer, answers, prompt
from server.engine.tiny_gguf import write_tiny_gguf
from server.engine.tiny_models import ADAPTERS, CONTEXT_LENGTH, TinyModel, token_ids

Start = Callable[..., LlamaCppEngine]
Logits = npt.NDArray[np.float64]
ASKED = token_ids(40)
NEW = 12


@pytest.fixture
def copied(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """An adapter's folder that may be spoilt."""
    return Path(shutil.copytree(tiny_model.adapter("plain"), tmp_path / "adapter"))


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def add_tensors(folder: Path, **shapes: tuple[int, int]) -> None:
    file = folder / "adapter_model.safetensors"
    extra = {f"base_model.model.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(load_file(file) | extra, file)


async def test_one_prompt_through_base_and_adapters_in_turn_is_answered_as_in_a_fresh_context(
    tiny_model: TinyModel, tiny_gguf: GgufModel, start_llamacpp: Start
) -> None:
    engine = start_llamacpp(tiny_gguf)
    kinds = [None, "plain", None, "all-linear", "plain", None]
    for digest in ("plain", "all-linear"):
        await engine.load_adapter(digest, tiny_model.adapter(digest))
    for kind in kinds:
        expected = tiny_model.reference(ASKED, NEW, tiny_model.adapter(kind) if kind else None)
        assert await answer(engine, prompt(ASKED, NEW, adapter=kind)) == expected, kind


async def test_base_and_adapters_at_once_are_answered_as_each_alone(
    tiny_model: TinyModel, tiny_gguf: GgufModel, start_llamacpp: Start
) -> None:
    engine = start_llamacpp(tiny_gguf, turn=2)
    for kind in ADAPTERS:
        await engine.load_adapter(kind, tiny_model.adapter(kind))
    kinds = [None, *ADAPTERS, None, *ADAPTERS]
    together = await answers(engine, [prompt(ASKED, NEW, adapter=kind) for kind in kinds])
    alone = {kind: tiny_model.reference(ASKED, NEW, tiny_model.adapter(kind) if kind else None) for kind in kinds}
    assert together == [alone[kind] for kind in kinds]
    assert len({tuple(each) for each in together}) == len(alone)


async def test_a_digest_loaded_again_does_not_meet_the_cache_of_the_one_before(
    tiny_model: TinyModel, tiny_gguf: GgufModel, start_llamacpp: Start
) -> None:
    engine = start_llamacpp(tiny_gguf)
    for seed in (1, 2):
        folder = tiny_model.adapter("plain", seed)
        await engine.load_adapter("same", folder)
        assert await answer(engine, prompt(ASKED, NEW, adapter="same")) == tiny_model.reference(ASKED, NEW, folder)
        await engine.unload_adapter("same")


@pytest.fixture
def model(tiny_gguf: GgufModel) -> Iterator[Model]:
    model = Model(tiny_gguf.file, offload=False)
    yield model
    model.close()


@pytest.mark.parametrize("content", [None, b"", b"no GGUF at all"], ids=["missing", "empty", "garbage"])
def test_what_llama_cpp_does_not_load_is_an_error_and_no_null_pointer(
    model: Model, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "adapter.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidAdapter) as refused:
        model.load_adapter(file)
    assert str(tmp_path) not in refused.value.message


def test_an_adapter_file_of_another_shape_is_an_error(
    model: Model, tiny_models: dict[str, TinyModel], tmp_path: Path
) -> None:
    qwen3 = tiny_models["qwen3"]
    other = write_tiny_gguf(qwen3.base, tmp_path)
    file = tmp_path / "adapter.gguf"
    write_gguf_adapter(file, read_adapter(qwen3.adapter("plain"), other.linear_modules), other)
    with pytest.raises(InvalidAdapter):
        model.load_adapter(file)


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
async def test_an_adapter_of_a_tied_head_is_refused(
    tiny_models: dict[str, TinyModel], start_llamacpp: Start, tmp_path: Path, copied: Path, module: str
) -> None:
    tied = tiny_models["llama-tied"]
    folder = Path(shutil.copytree(tied.adapter("plain"), tmp_path / "tied"))
    add_tensors(folder, **{f"{module}.lora_A.weight": (4, 32), f"{module}.lora_B.weight": (199, 4)})
    engine = start_llamacpp(write_tiny_gguf(tied.base, tmp_path))
    with pytest.raises(InvalidAdapter, match=module) as refused:
        await engine.load_adapter("head", folder)
    assert refused.value.code == "adapter_unexpected_keys"


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_dora", True), ("modules_to_save", ["lm_head"]), ("trainable_token_indices", [1, 2])],
)
async def test_what_is_more_than_lora_is_refused_by_name(
    tiny_gguf: GgufModel, start_llamacpp: Start, copied: Path, field: str, value: object
) -> None:
    configure(copied, **{field: value})
    with pytest.raises(InvalidAdapter, match=field):
        await start_llamacpp(tiny_gguf).load_adapter("more", copied)


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.lora_magnitude_vector", "model.layers.9.self_attn.q_proj.lora_A.weight"]
)
async def test_a_tensor_that_would_not_be_applied_is_refused(
    tiny_gguf: GgufModel, start_llamacpp: Start, copied: Path, name: str
) -> None:
    add_tensors(copied, **{name: (4, 32)})
    with pytest.raises(InvalidAdapter, match=name):
        await start_llamacpp(tiny_gguf).load_adapter("extra", copied)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_tensor_of_an_adapter_is_in_the_file_and_no_path(
    tiny_model: TinyModel, tiny_gguf: GgufModel, tmp_path: Path, kind: str
) -> None:
    import gguf

    folder, file = tiny_model.adapter(kind), tmp_path / "adapter.gguf"
    write_gguf_adapter(file, read_adapter(folder, tiny_gguf.linear_modules), tiny_gguf)
    assert len(gguf.GGUFReader(file).tensors) == len(load_file(folder / "adapter_model.safetensors"))
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base).is_absolute()
    written = file.read_bytes()
    assert not any(part.encode() in written for part in (base, str(tiny_gguf.file.parent), str(folder.parent)))


@pytest.mark.parametrize("text", ["-" * 100, "Ġ" * 100, "=" * 33, "ab" * 500])
def test_a_long_token_is_decoded_whole(tiny_model: TinyModel, tmp_path: Path, text: str) -> None:
    codec = GgufCodec(write_tiny_gguf(tiny_model.base, tmp_path, first_tokens=(text, "x")))
    whole = text.replace("Ġ", " ")
    assert codec.decode([0]) == whole
    assert codec.decode([1, 0, 1, 0]) == f"x{whole}" * 2


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_scales_as_in_peft(
    model: Model, tiny_model: TinyModel, tiny_gguf: GgufModel, tmp_path: Path, kind: str
) -> None:
    folder, file = tiny_model.adapter(kind), tmp_path / "adapter.gguf"
    write_gguf_adapter(file, read_adapter(folder, tiny_gguf.linear_modules), tiny_gguf)
    found = _llama_cpp_logits(model, file)
    base = AutoModelForCausalLM.from_pretrained(tiny_model.base.folder, dtype=torch.float32)
    plain = _torch_logits(base)
    wanted = _torch_logits(PeftModel.from_pretrained(base, folder))
    assert _divergence(wanted, plain) > 0.01
    assert _divergence(wanted, found) < 1e-8


def _llama_cpp_logits(model: Model, adapter: Path) -> Logits:
    context = Context(model, Shape(CONTEXT_LENGTH, 1, 1, 1, "float32"))
    try:
        context.use(model.load_adapter(adapter))
        rows = [context.decode([((token,), start, 0, True)])[0].copy() for start, token in enumerate(ASKED)]
        return np.stack(rows).astype(np.float64)
    finally:
        context.close()


def _torch_logits(model: Any) -> Logits:
    with torch.inference_mode():
        logits: Logits = model(torch.tensor([ASKED])).logits[0].double().numpy()
    return logits


def _divergence(wanted: Logits, found: Logits) -> float:
    """Mean Kullback-Leibler."""
    p, q = (torch.from_numpy(each).log_softmax(-1) for each in (wanted, found))
    return float((p.exp() * (p - q)).sum(-1).mean())

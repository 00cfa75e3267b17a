"""The exported numbers against transformers and PEFT: one judge for permutations, rope, biases, scales and patterns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brie_convert.architecture import read_architecture
from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_adapter import write_gguf_adapter
from brie_core.weights.lora import read_adapter
from logits import Logits, adapt, divergence, llama_cpp_logits, load, torch_logits

Checkpoint = Callable[[str], BaseModel]
WriteFile = Callable[..., Path]

_TOKENS = [int(token) for token in np.random.default_rng(0).integers(4, 600, 256)]
_NAMES = ["llama", "llama linear", "llama yarn", "llama3", "mistral", "qwen2", "qwen2 yarn", "qwen3", "qwen3 yarn"]
_NAMES += ["gemma2", "gemma3"]
_ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 16},
    "patterns": {"alpha_pattern": {"k_proj": 64}, "rank_pattern": {r"layers\.1\.mlp\.down_proj": 2}},
}


@pytest.mark.parametrize("quantization", ["f32", "f16"])
@pytest.mark.parametrize("name", _NAMES)
def test_a_base_answers_in_llama_cpp_as_in_transformers(
    checkpoint: Checkpoint, write_file: WriteFile, name: str, quantization: str
) -> None:
    base = checkpoint(name)
    file = write_file(base, quantization)
    _assert_agreement(torch_logits(load(base.folder), _TOKENS), llama_cpp_logits(file, _TOKENS))


@pytest.mark.parametrize("kind", list(_ADAPTERS))
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "qwen3", "gemma2", "gemma3"])
def test_a_merged_adapter_answers_as_in_peft(
    checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path, name: str, kind: str
) -> None:
    base = checkpoint(name)
    adapted = adapt(base.folder, tmp_path / "adapter", _ADAPTERS[kind])
    file = write_file(base, "f16", tmp_path / "adapter")
    assert divergence(torch_logits(adapted, _TOKENS), torch_logits(load(base.folder), _TOKENS)).mean() > 0.01
    _assert_agreement(torch_logits(adapted, _TOKENS), llama_cpp_logits(file, _TOKENS))


@pytest.mark.parametrize("kind", list(_ADAPTERS))
def test_an_adapter_of_the_default_model_answers_merged_and_at_run_time_as_in_peft(
    default_model: BaseModel, write_file: WriteFile, tmp_path: Path, kind: str
) -> None:
    adapted = adapt(default_model.folder, tmp_path / "adapter", _ADAPTERS[kind], spread=0.02)
    wanted = torch_logits(adapted, _TOKENS)
    _assert_agreement(wanted, llama_cpp_logits(write_file(default_model, "f16", tmp_path / "adapter"), _TOKENS))
    lora = read_adapter(tmp_path / "adapter", default_model.linear_modules)
    write_gguf_adapter(tmp_path / "lora.gguf", lora, read_architecture(default_model.config))
    over = write_file(default_model, "f16")
    _assert_agreement(wanted, llama_cpp_logits(over, _TOKENS, tmp_path / "lora.gguf"))


def test_q8_0_stays_close_to_the_model(checkpoint: Checkpoint, write_file: WriteFile) -> None:
    base = checkpoint("llama3")
    file = write_file(base, "q8_0")
    assert divergence(torch_logits(load(base.folder), _TOKENS), llama_cpp_logits(file, _TOKENS)).mean() < 0.05


def _assert_agreement(wanted: Logits, found: Logits) -> None:
    apart, top_1 = divergence(wanted, found).mean(), (wanted.argmax(-1) == found.argmax(-1)).mean()
    print(f"KL {apart:.2g}, top-1 {top_1:.4f}")  # shown by pytest -rP
    assert apart < 1e-4
    best, second = np.sort(wanted)[:, [-1, -2]].T
    undecided = best - second < 0.01  # random weights leave ties that any rounding breaks
    assert (undecided | (wanted.argmax(-1) == found.argmax(-1))).mean() > 0.99
    assert undecided.mean() < 0.1

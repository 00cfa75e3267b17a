"""The exported numbers against transformers and PEFT: one judge for permutations, rope, biases, scales and patterns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from brie_convert.llama_runtime import listening
from brie_core.weights.base_model import BaseModel

Logits = npt.NDArray[np.float64]
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
    _assert_agreement(_torch_logits(_load(base)), _llama_cpp_logits(file))


@pytest.mark.parametrize("kind", list(_ADAPTERS))
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "qwen3", "gemma2", "gemma3"])
def test_a_merged_adapter_answers_as_in_peft(
    checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path, name: str, kind: str
) -> None:
    base = checkpoint(name)
    adapted = _adapt(base, tmp_path / "adapter", _ADAPTERS[kind])
    file = write_file(base, "f16", tmp_path / "adapter")
    assert _divergence(_torch_logits(adapted), _torch_logits(_load(base))).mean() > 0.01
    _assert_agreement(_torch_logits(adapted), _llama_cpp_logits(file))


@pytest.mark.parametrize("kind", list(_ADAPTERS))
def test_a_merged_adapter_of_the_default_model_answers_as_in_peft(
    default_model: BaseModel, write_file: WriteFile, tmp_path: Path, kind: str
) -> None:
    adapted = _adapt(default_model, tmp_path / "adapter", _ADAPTERS[kind], spread=0.02)
    file = write_file(default_model, "f16", tmp_path / "adapter")
    _assert_agreement(_torch_logits(adapted), _llama_cpp_logits(file))


def test_q8_0_stays_close_to_the_model(checkpoint: Checkpoint, write_file: WriteFile) -> None:
    base = checkpoint("llama3")
    file = write_file(base, "q8_0")
    assert _divergence(_torch_logits(_load(base)), _llama_cpp_logits(file)).mean() < 0.05


def _load(base: BaseModel) -> Any:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers.AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)


def _adapt(base: BaseModel, folder: Path, options: dict[str, Any], spread: float = 0.05) -> Any:
    import peft
    import torch

    settings: dict[str, Any] = {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    } | options
    torch.manual_seed(1)
    model = peft.get_peft_model(_load(base), peft.LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, spread)
    model.save_pretrained(str(folder))
    return model


def _torch_logits(model: Any) -> Logits:
    import torch

    with torch.inference_mode():
        logits: Logits = model(torch.tensor([_TOKENS])).logits[0].double().numpy()
    return logits


def _llama_cpp_logits(file: Path) -> Logits:
    from llama_cpp import Llama

    with listening():
        # An f32 cache, so that what differs is the file.
        model = Llama(
            str(file), n_ctx=len(_TOKENS), logits_all=True, type_k=0, type_v=0, n_threads_batch=1, verbose=False
        )
        try:
            model.eval(_TOKENS)
            return model.scores[: len(_TOKENS)].astype(np.float64)
        finally:
            model.close()


def _assert_agreement(wanted: Logits, found: Logits) -> None:
    divergence, top_1 = _divergence(wanted, found).mean(), (wanted.argmax(-1) == found.argmax(-1)).mean()
    print(f"KL {divergence:.2g}, top-1 {top_1:.4f}")  # shown by pytest -rP
    assert divergence < 1e-4
    best, second = np.sort(wanted)[:, [-1, -2]].T
    undecided = best - second < 0.01  # random weights leave ties that any rounding breaks
    assert (undecided | (wanted.argmax(-1) == found.argmax(-1))).mean() > 0.99
    assert undecided.mean() < 0.1


def _divergence(wanted: Logits, found: Logits) -> Logits:
    """Kullback-Leibler, token by token."""
    p, q = _log_probabilities(wanted), _log_probabilities(found)
    divergence: Logits = (np.exp(p) * (p - q)).sum(-1)
    return divergence


def _log_probabilities(logits: Logits) -> Logits:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result

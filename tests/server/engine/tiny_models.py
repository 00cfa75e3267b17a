"""Tiny random checkpoints and adapters on disk, and what transformers and PEFT answer from them. It knows no engine."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.utils.logging import disable_progress_bar

from brie_core.weights.base_model import BaseModel, open_base_model

VOCAB_SIZE = 199
CONTEXT_LENGTH = 256
_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOW = 16
_GEMMA3 = {
    "num_hidden_layers": 3,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 10,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    },
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-3": ("Llama", {"rope_parameters": _LLAMA3_ROPE}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"head_dim": 16, "sliding_window": WINDOW}),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "gemma3": ("Gemma3", _GEMMA3),
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "rslora": {"r": 9, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "up_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "v_proj", "gate_proj", "down_proj"],
        "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 7},
        "alpha_pattern": {"v_proj": 3, "layers.0.mlp.down_proj": 5},
    },
    "q-and-v": {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 5, "lora_alpha": 10, "target_modules": "all-linear"},
    "one-layer": {"r": 4, "lora_alpha": 8, "target_modules": ["k_proj", "up_proj"], "layers_to_transform": [1]},
    "wide": {"r": 256, "lora_alpha": 32, "target_modules": "all-linear"},
}


@dataclass(frozen=True)
class Reference:
    """A greedy answer."""

    tokens: tuple[int, ...]
    margin: float
    """The least by which a token's logit exceeded all others."""


@dataclass(frozen=True)
class TinyModel:
    """A checkpoint and the adapters trained on it, all of them noise."""

    base: BaseModel
    adapters: Path

    def adapter(self, kind: str, seed: int = 1) -> Path:
        """The folder of an adapter, written by PEFT; another seed gives another adapter of that kind."""
        folder = self.adapters / f"{kind}-{seed}"
        if not folder.exists():
            torch.manual_seed(seed)
            with _future_warnings_ignored():
                model = get_peft_model(
                    load_reference(self.base.folder), LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[kind])
                )
            _randomise(model, "lora_", 0.3)
            model.save_pretrained(str(folder))
        return folder

    def logprobs(self, token_ids: tuple[int, ...], adapter: Path | None = None) -> torch.Tensor:
        """What transformers, or PEFT, thinks of each token after each of these; float32 [tokens, vocabulary]."""
        return torch.log_softmax(self.logits(token_ids, adapter), -1)

    def logits(self, token_ids: tuple[int, ...], adapter: Path | None = None) -> torch.Tensor:
        """The same before it is normalized."""
        with _future_warnings_ignored(), torch.no_grad():
            logits: torch.Tensor = _judge(self.base.folder, adapter)(input_ids=torch.tensor([token_ids])).logits[0]
            return logits

    def embedding(self, token_ids: tuple[int, ...], adapter: Path | None = None) -> torch.Tensor:
        """The mean of the last hidden states of transformers, or PEFT; float32 [hidden size]."""
        with _future_warnings_ignored(), torch.no_grad():
            told = _judge(self.base.folder, adapter)(input_ids=torch.tensor([token_ids]), output_hidden_states=True)
            mean: torch.Tensor = told.hidden_states[-1][0].mean(0)
            return mean

    def reference(self, token_ids: tuple[int, ...], max_tokens: int, adapter: Path | None = None) -> list[int]:
        """What transformers, or PEFT, generates greedily in float32."""
        return list(self.references([token_ids], max_tokens, adapter)[0].tokens)

    def references(
        self, prompts: Iterable[tuple[int, ...]], max_tokens: int, adapter: Path | None = None
    ) -> list[Reference]:
        """The same for several prompts, each by itself."""
        return [_reference(self.base.folder, adapter, token_ids, max_tokens) for token_ids in prompts]


def make_model(family: str, folder: Path) -> TinyModel:
    """A random checkpoint of a family, written by transformers into `folder`."""
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers gives it no types
    name, switches = FAMILIES[family]
    torch.manual_seed(1)
    model_class = getattr(transformers, f"{name}ForCausalLM")
    model = model_class(model_class.config_class(**(_SHAPE | switches)))
    _randomise(model, "", 0.4)
    if name == "Gemma3":  # else a token's own embedding, scaled and tied, outweighs all that the layers add
        model.model.embed_tokens.weight.data *= 0.1
    model.save_pretrained(folder)
    return TinyModel(open_base_model(family, folder, folder / "digests.json"), folder / "adapters")


@lru_cache
def token_ids(length: int, seed: int = 0) -> tuple[int, ...]:
    """A random prompt."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, VOCAB_SIZE, (length,), generator=generator).tolist())


def load_reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model of a checkpoint."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@cache
def _judge(folder: Path, adapter: Path | None) -> Any:
    """transformers' model or PEFT's, read once: those who ask it leave it as it is."""
    model = load_reference(folder)
    with _future_warnings_ignored():
        return PeftModel.from_pretrained(model, adapter).eval() if adapter else model


@cache
def _reference(folder: Path, adapter: Path | None, prompt: tuple[int, ...], max_tokens: int) -> Reference:
    """Generated once, however many tests compare with it."""
    with _future_warnings_ignored():
        return _generate(_judge(folder, adapter), prompt, max_tokens)


def _future_warnings_ignored() -> "warnings.catch_warnings[None]":
    """peft 0.21 reads attributes that transformers 5.23 has renamed."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)


def _randomise(model: torch.nn.Module, part: str, spread: float) -> None:
    """Large weights everywhere, biases and norms too: initial ones would hide what is missing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                noise = torch.randn_like(parameter)
                parameter.copy_(parameter + 0.1 * noise if "norm" in name else spread * noise)


def _generate(model: Any, prompt: tuple[int, ...], max_tokens: int) -> Reference:
    input_ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first_N2 = torch.cat(output.logits).topk(2).values
    return Reference(tuple(output.sequences[0, len(prompt) :].tolist()), float((first_N2[:, 0] - first_N2[:, 1]).min()))

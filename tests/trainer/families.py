"""Random checkpoints of every family, each with an adapter, as training opens them. It knows no tokenizer."""

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from brie_trainer.data.examples import IGNORED, Example
from brie_trainer.training.model import LoraModel, load

WINDOW = 16
SHAPE: dict[str, Any] = {
    "vocab_size": 199, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LLAMA_3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-3": ("Llama", {"rope_parameters": LLAMA_3_ROPE}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"head_dim": 16, "sliding_window": WINDOW}),
    "gemma3": ("Gemma3", {"head_dim": 16, "query_pre_attn_scalar": 10, "sliding_window": WINDOW}),
}


def write_family(folder: Path, family: str) -> Path:
    """A random base with biases and norms away from their beginnings, and a random adapter beside it, in `folder`."""
    name, changes = FAMILIES[family]
    config_class = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    torch.manual_seed(3)
    base = getattr(transformers, f"{name}ForCausalLM")(config_class(**SHAPE, **changes))
    for key, tensor in base.named_parameters():
        if "norm" in key or "bias" in key:
            torch.nn.init.normal_(tensor, mean=1.0 if "norm" in key else 0.0, std=0.2)
        else:
            torch.nn.init.normal_(tensor, std=0.15)
    base.save_pretrained(folder / "base")
    lora = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM"))
    for key, tensor in lora.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(tensor, std=0.3)
    lora.save_pretrained(str(folder / "lora"))
    return folder


def opened(folder: Path, **changes: Any) -> LoraModel:
    """The base with its adapter, as training holds it."""
    given: dict[str, Any] = {
        "rank": 3, "alpha": 5, "dropout": 0.0, "target_modules": None, "dtype": "float32", "device": "cpu",
        "gradient_checkpointing": False, "quantization": None, "from_adapter": folder / "lora", "seed": 1,
    }  # fmt: skip
    return load(folder / "base", **(given | changes))


def random_examples() -> list[Example]:
    """Of four lengths, a third of their tokens learnt."""
    generator = torch.Generator().manual_seed(5)
    examples = []
    for length in (7, 40, 23, 1):
        ids = torch.randint(0, 199, (length,), generator=generator).tolist()
        learnt = torch.randint(0, 3, (length,), generator=generator).tolist()
        examples.append(Example(ids, [token if keep else IGNORED for token, keep in zip(ids, learnt, strict=True)]))
    return examples

"""Tiny random checkpoints with the default model's tokenizer, so that tests take seconds. It knows no service."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def write_tiny_llama(folder: Path, tokenizer_from: Path, **changes: Any) -> Path:
    """A two-layer llama of 64 dimensions over the whole vocabulary, in `folder`."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 49152, "max_position_embeddings": 512}
    torch.manual_seed(7)
    config = LlamaConfig(**(shape | {"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2} | changes))
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_from / name, folder / name)
    return folder


def write_lora(folder: Path, base: Path, *, seed: int = 0, zero_b: bool = False, **config: Any) -> Path:
    """A PEFT adapter of `base` with random A and (unless `zero_b`) random B, in `folder`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    given: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**given))
    for name, parameter in model.named_parameters():
        if "lora_B" in name and not zero_b:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(str(folder))
    return folder

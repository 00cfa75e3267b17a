"""Random LoRA adapters on disk, in f32 as PEFT folders and as GGUF files. They are good for timing alone."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from brie_core.weights.gguf_adapter import write_gguf_adapter
from brie_core.weights.gguf_model import GgufModel
from brie_core.weights.lora import Adaptable, read_adapter

RANK = 16
_B_SCALE = 0.002
"""Small enough that an answer is still text, large enough that it is another one."""


def write_adapters(folder: Path, base: Adaptable, count: int) -> list[Path]:
    """`count` adapters of all linear layers in folders a0, a1, ...; those that are there already stay."""
    return [_write_adapter(folder / f"a{seed}", base, seed) for seed in range(count)]


def _write_adapter(folder: Path, base: Adaptable, seed: int) -> Path:
    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (outputs, inputs) in sorted(base.linear_modules.items()):
        for side, shape, scale in (("A", (RANK, inputs), inputs**-0.5), ("B", (outputs, RANK), _B_SCALE)):
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = values
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    config |= {"target_modules": sorted({name.rsplit(".", 1)[1] for name in base.linear_modules})}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def write_gguf_adapters(folder: Path, adapters: list[Path], model: GgufModel) -> list[Path]:
    """The same adapters as llama.cpp reads them, named so that their order is the adapters'."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index:03}.gguf" for index in range(len(adapters))]
    for file, adapter in zip(files, adapters, strict=True):
        if not file.is_file():
            write_gguf_adapter(file, read_adapter(adapter, model.linear_modules), model)
    return files

"""Logits of the same tokens by transformers, PEFT and llama-cpp-python's own class, and how far they are apart.

It knows nothing of how Brie computes: exports are judged by it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float64]


def load(folder: Path) -> Any:
    """A checkpoint in transformers, in float32."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapt(base: Path, folder: Path, options: Mapping[str, Any], spread: float = 0.05) -> Any:
    """The model of `base` with a random LoRA of PEFT's making, which is saved in `folder`."""
    import peft
    import torch

    settings: dict[str, Any] = {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        **options,
    }
    torch.manual_seed(1)
    model = peft.get_peft_model(load(base), peft.LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, spread)
    model.save_pretrained(str(folder))
    return model


def torch_logits(model: Any, tokens: Sequence[int]) -> Logits:
    """A row per token."""
    import torch

    with torch.inference_mode():
        logits: Logits = model(torch.tensor([tokens])).logits[0].double().numpy()
    return logits


def llama_cpp_logits(file: Path, tokens: Sequence[int], adapter: Path | None = None) -> Logits:
    """A row per token, by a cache in float32, so that what differs is the file."""
    from llama_cpp import GGML_TYPE_F32, Llama

    from brie_convert.llama_runtime import listening

    with listening():
        model = Llama(
            str(file),
            n_ctx=len(tokens),
            logits_all=True,
            type_k=GGML_TYPE_F32,
            type_v=GGML_TYPE_F32,
            n_threads_batch=1,
            verbose=False,
            lora_path=str(adapter) if adapter else None,
        )
        try:
            model.eval(tokens)
            return model.scores[: len(tokens)].astype(np.float64)
        finally:
            model.close()


def divergence(wanted: Logits, found: Logits) -> Logits:
    """Kullback-Leibler, token by token."""
    p, q = (logits - np.logaddexp.reduce(logits, -1, keepdims=True) for logits in (wanted, found))
    each: Logits = (np.exp(p) * (p - q)).sum(-1)
    return each

"""Which device a run uses, and in which precision. It knows torch, no model."""

import torch


def choose_device(wanted: str) -> str:
    """cpu, cuda or mps: as asked, or the fastest that is here."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(wanted: str, device: str) -> str:
    """bf16 where the hardware multiplies it fast, else f32; also f32 for float16, whose range training overflows."""
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    fast = {"cuda": torch.cuda.is_bf16_supported, "mps": lambda: True, "cpu": _cpu_multiplies_bf16}[device]
    return "bfloat16" if fast() else "float32"


def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

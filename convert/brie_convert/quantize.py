"""GGUF to a smaller GGUF by llama.cpp's own quantizer. It knows names of quantizations, not what is quantized."""

import ctypes
import re
from pathlib import Path

import gguf

from brie_convert.llama_runtime import listening
from brie_convert.plan import Storage
from brie_convert.progress import Advance
from brie_core.errors import EngineFailure, InvalidRequest

STREAMED: dict[str, Storage] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Written by the merging pass itself; Q8_0 comes out bit for bit as from llama.cpp."""

# Those that llama.cpp makes without an importance matrix and that hold a dense model together.
_QUANTIZED = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "iq3_s", "iq3_m"),
    *("q4_0", "q4_1", "q4_k_s", "q4_k_m", "iq4_xs", "iq4_nl"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)
QUANTIZATIONS = (*STREAMED, *_QUANTIZED)
_BUFFER_BYTES = 64 * 2**20
_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_FALLBACKS = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback quantization")


def check_quantization(name: str) -> None:
    """Raises InvalidRequest for a name that cannot be exported."""
    if name not in QUANTIZATIONS:
        raise InvalidRequest(
            f"{name!r} is not a quantization that can be exported: take one of {', '.join(QUANTIZATIONS)}.",
            param="quantization",
            code="unsupported_quantization",
        )


def file_type(quantization: str) -> int:
    """llama.cpp's number for the whole file's kind."""
    prefix = "ALL" if quantization == "f32" else "MOSTLY"
    return int(gguf.LlamaFileType[f"{prefix}_{quantization.upper()}"])


def quantize(source: Path, target: Path, quantization: str, advance: Advance) -> int:
    """Write `target`; returns how many tensors got another type than asked for, because their rows do not fit it.

    Raises EngineFailure; llama.cpp then leaves a broken file behind, so `target` must be a temporary place.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type(quantization)
    params.nthread = 0
    params.max_buf_size = _BUFFER_BYTES  # by default 8 GiB: up to six times the memory and no faster
    with listening(lambda line: _report(line, advance)) as log:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if failed:
        reason = log.reason(source)
        raise EngineFailure(f"llama.cpp could not quantize to {quantization}: {reason}", code="quantization_failed")
    return next((int(found[1]) for line in log.lines if (found := _FALLBACKS.search(line))), 0)


def _report(line: str, advance: Advance) -> None:
    if found := _PROGRESS.search(line):
        advance(int(found[1]) / int(found[2]))

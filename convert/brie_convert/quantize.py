"""GGUF to a smaller GGUF by llama.cpp's own quantizer. It knows names of quantizations, not what is quantized."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from brie_convert.llama_runtime import listening
from brie_convert.plan import Storage
from brie_convert.progress import Advance
from brie_core.errors import EngineFailure, InvalidRequest

STREAMED: dict[str, Storage] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Written by the merging pass itself; Q8_0 comes out bit for bit as from llama.cpp."""

NEEDS_IMPORTANCE = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "q2_k_s", "iq3_xxs", "iq3_xs")
"""llama.cpp makes these only with an importance matrix: without, they are noise."""

_QUANTIZED = (
    *("q1_0", "tq1_0", "tq2_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "iq3_s", "iq3_m"),
    *("q4_0", "q4_1", "q4_k_s", "q4_k_m", "iq4_xs", "iq4_nl"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)
QUANTIZATIONS = (*STREAMED, *_QUANTIZED, *NEEDS_IMPORTANCE)
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


def quantize(
    source: Path,
    target: Path,
    quantization: str,
    advance: Advance,
    importance: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> int:
    """Write `target`; returns how many tensors got another type than asked for, because their rows do not fit it.

    `importance` has, by tensor, the mean square of each column's input. Raises EngineFailure; llama.cpp then leaves a
    broken file behind, so `target` must be a temporary place.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type(quantization)
    params.nthread = 0
    params.max_buf_size = _BUFFER_BYTES  # by default 8 GiB: up to six times the memory and no faster
    entries = _entries(importance) if importance else None
    if entries:
        params.imatrix = entries  # ctypes keeps what it points at only as long as `entries` and `importance` live
    with listening(lambda line: _report(line, advance)) as log:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if failed:
        reason = log.reason(source)
        raise EngineFailure(f"llama.cpp could not quantize to {quantization}: {reason}", code="quantization_failed")
    return next((int(found[1]) for line in log.lines if (found := _FALLBACKS.search(line))), 0)


def _entries(importance: Mapping[str, npt.NDArray[np.float32]]) -> Any:
    """As llama.h wants them: an array that ends with an element without a name."""
    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        if values.dtype != np.float32 or not values.flags.c_contiguous or not np.isfinite(values).all():
            raise EngineFailure(f"The importance of {name} is no row of finite numbers.", code="quantization_failed")
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries


def _report(line: str, advance: Advance) -> None:
    if found := _PROGRESS.search(line):
        advance(int(found[1]) / int(found[2]))

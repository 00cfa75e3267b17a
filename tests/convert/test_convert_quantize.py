"""Quantizing: llama.cpp's names and types, its refusals as errors, its log kept to ourselves."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from brie_convert.gguf_file import tally
from brie_convert.llama_runtime import listening, open_file
from brie_convert.quantize import NEEDS_IMPORTANCE, QUANTIZATIONS, check_quantization, file_type, quantize
from brie_core import export_names
from brie_core.errors import EngineFailure, InvalidRequest
from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_header import read_gguf_header

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., Any]
WriteFile = Callable[..., Path]


# llama.cpp's names of mixtures that no type is called after.
_OTHERWISE_NAMED = {"iq2_m": "IQ2_S", "iq3_xs": "IQ3", "iq3_m": "IQ3", "iq2_s": "IQ2"}


def _ignore(_fraction: float) -> None: ...


@pytest.mark.parametrize("name", ["q9_9", "Q8_0", "", "q2_0", "nvfp4", "mxfp4_moe"])
def test_what_cannot_be_made_is_refused_with_what_can(name: str) -> None:
    with pytest.raises(InvalidRequest, match="q4_k_m") as caught:
        check_quantization(name)
    assert (caught.value.code, caught.value.param) == ("unsupported_quantization", "quantization")


def test_the_numbers_of_file_types_are_llama_cpps() -> None:
    import llama_cpp

    assert file_type("q4_k_m") == llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert file_type("f32") == llama_cpp.LLAMA_FTYPE_ALL_F32


def test_every_offered_name_makes_a_file_in_its_own_types(
    checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path
) -> None:
    source = write_file(checkpoint("wide"), "f32")  # whole blocks of 256, so that nothing falls back
    importance = _importance(source)
    for name in QUANTIZATIONS:
        given = importance if name in NEEDS_IMPORTANCE else None
        assert quantize(source, tmp_path / name, name, _ignore, given) == 0
        nominal = _OTHERWISE_NAMED.get(name, re.sub(r"_[sml]$", "", name).upper())
        assert any(kind.startswith(nominal) for kind in tally(tmp_path / name).types), name


def test_those_that_need_an_importance_matrix_are_not_made_without(
    checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path
) -> None:
    source = write_file(checkpoint("wide"), "f32")
    for name in NEEDS_IMPORTANCE:
        with pytest.raises(EngineFailure):
            quantize(source, tmp_path / name, name, _ignore)


def test_the_importance_matrix_decides_what_is_kept(
    checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path
) -> None:
    source, heavy = write_file(checkpoint("wide"), "f32"), "blk.0.attn_q.weight"
    importance = _importance(source)
    quantize(source, tmp_path / "even", "q4_k_s", _ignore, importance)
    quantize(source, tmp_path / "uneven", "q4_k_s", _ignore, {**importance, heavy: _only(importance[heavy], 7)})
    before, even, uneven = (_column(tmp_path / name, heavy, 7) for name in (source.name, "even", "uneven"))
    assert np.abs(uneven - before).mean() < 0.5 * np.abs(even - before).mean()


def test_importance_that_is_no_number_is_refused(checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path) -> None:
    source = write_file(checkpoint("wide"), "f32")
    broken = {name: values * np.float32("nan") for name, values in _importance(source).items()}
    with pytest.raises(EngineFailure, match="finite"):
        quantize(source, tmp_path / "out.gguf", "q4_k_m", _ignore, broken)


def test_streamed_q8_0_is_bit_for_bit_llama_cpps(checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path) -> None:
    base = checkpoint("llama3")
    source = write_file(base, "f32")
    quantize(source, tmp_path / "theirs", "q8_0", _ignore)
    ours = write_file(base, "q8_0")
    assert _tensors(ours) == _tensors(tmp_path / "theirs")
    assert gguf.GGUFReader(ours).fields["general.file_type"].contents() == file_type("q8_0")


def test_fallbacks_are_counted(checkpoint: Checkpoint, run_export: Export) -> None:
    _, result = run_export(checkpoint("llama"), "q4_k_m")  # 64 columns: no row is a whole block of 256
    assert result.manifest["tensors"]["fallbacks"] == 14
    assert "Q4_K" not in result.manifest["tensors"]["types"]


def test_a_refusal_of_llama_cpp_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(EngineFailure, match=r"q4_k_m: .*bad GGUF version") as caught:
        quantize(tmp_path / "broken.gguf", tmp_path / "out.gguf", "q4_k_m", _ignore)
    assert caught.value.code == "quantization_failed"


def test_a_file_that_does_not_load_is_an_error_with_llama_cpps_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"nonsense" * 10)
    with pytest.raises(EngineFailure, match="invalid magic") as caught, open_file(tmp_path / "broken.gguf"):
        pass
    assert str(tmp_path) not in caught.value.message


def test_the_log_goes_back_to_whoever_had_it() -> None:
    before = _log_callback()
    with listening():
        assert _log_callback() != before
    assert _log_callback() == before


def _importance(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    """All columns alike."""
    tensors = read_gguf_header(file).tensors
    return {tensor.name: np.ones(tensor.shape[1], np.float32) for tensor in tensors if len(tensor.shape) == 2}


def _only(values: npt.NDArray[np.float32], column: int) -> npt.NDArray[np.float32]:
    chosen = values * np.float32(1e-6)
    chosen[column] = 1.0
    return chosen


def _column(file: Path, tensor: str, column: int) -> Any:
    found = next(entry for entry in gguf.GGUFReader(file).tensors if entry.name == tensor)
    return gguf.dequantize(found.data, found.tensor_type)[:, column]


def _log_callback() -> int | None:
    import llama_cpp

    callback, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    return ctypes.cast(callback, ctypes.c_void_p).value


def _tensors(file: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(file).tensors}


def test_the_api_offers_exactly_what_is_made() -> None:
    assert set(export_names.QUANTIZATIONS) == set(QUANTIZATIONS)

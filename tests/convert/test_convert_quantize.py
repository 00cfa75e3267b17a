"""Quantizing: llama.cpp's names and types, its refusals as errors, its log kept to ourselves."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from brie_convert.gguf_file import tally
from brie_convert.llama_runtime import listening, open_file
from brie_convert.quantize import QUANTIZATIONS, check_quantization, file_type, quantize
from brie_core import wire
from brie_core.errors import EngineFailure, InvalidRequest
from brie_core.weights.base_model import BaseModel

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., Any]
WriteFile = Callable[..., Path]


def _ignore(_fraction: float) -> None: ...


@pytest.mark.parametrize("name", ["q9_9", "Q8_0", "", "iq2_xxs", "nvfp4", "mxfp4_moe"])
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
    for name in QUANTIZATIONS:
        assert quantize(source, tmp_path / name, name, _ignore) == 0
        nominal = re.sub(r"_[sml]$", "", name).upper()
        assert any(kind.startswith(nominal) for kind in tally(tmp_path / name).types), name


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


def _log_callback() -> int | None:
    import llama_cpp

    callback, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(callback), ctypes.byref(data))
    return ctypes.cast(callback, ctypes.c_void_p).value


def _tensors(file: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(file).tensors}


def test_the_api_offers_exactly_what_is_made() -> None:
    assert set(wire.QUANTIZATIONS) == set(QUANTIZATIONS)

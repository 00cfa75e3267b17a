"""Blocks of rows: merged as one matrix would be, regrouped within heads, refused when a number does not fit."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from brie_convert import merge
from brie_convert.plan import Storage, TensorPlan
from brie_core.errors import InvalidRequest
from brie_core.weights.gguf_layout import interleave_halves
from brie_core.weights.lora import LoraModule
from brie_core.weights.safetensors import TensorInfo, bfloat16_to_float16, bfloat16_to_float32, float32_to_bfloat16

Floats = npt.NDArray[np.float32]


def _store(folder: Path, name: str, values: Floats) -> TensorInfo:
    values.tofile(folder / name)
    return TensorInfo(name, "F32", values.shape, folder / name, 0, values.nbytes)


def _joined(tensor: TensorPlan) -> Floats:
    return np.concatenate(list(merge.tensor_blocks(tensor)))


def _plan(source: TensorInfo, storage: Storage = "F32", heads: int | None = None) -> TensorPlan:
    return TensorPlan("x", source, storage, heads, None)


def test_blocks_together_are_the_whole_merged_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_BLOCK_ELEMENTS", 700)
    dice = np.random.default_rng(0)
    w, a, b = (dice.normal(size=shape).astype(np.float32) for shape in ((96, 32), (4, 32), (96, 4)))
    module = LoraModule("w", 4, 2.0, _store(tmp_path, "a", a), _store(tmp_path, "b", b))
    tensor = TensorPlan("x", _store(tmp_path, "w", w), "F32", 6, module)
    assert len(list(merge.tensor_blocks(tensor))) > 3
    np.testing.assert_allclose(_joined(tensor), interleave_halves(w + 2 * (b @ a), 6), rtol=1e-5, atol=1e-5)


def test_halves_of_each_head_become_pairs() -> None:
    rows = np.arange(8, dtype=np.float32)
    assert interleave_halves(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleave_halves(rows[:, None], 1)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.parametrize(("value", "storage"), [(70000.0, "F16"), (65520.0, "F16"), (3.4e38, "BF16"), (9e6, "Q8_0")])
def test_a_number_that_does_not_fit_is_refused_with_its_tensor(tmp_path: Path, value: float, storage: Storage) -> None:
    source = _store(tmp_path, "model.norm.weight", np.full((2, 32), -value, dtype=np.float32))
    with pytest.raises(InvalidRequest, match=r"model\.norm\.weight") as caught:
        _joined(_plan(source, storage))
    assert caught.value.code == "weights_out_of_range"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_weights_are_refused_in_any_storage(tmp_path: Path, value: float) -> None:
    source = _store(tmp_path, "w", np.array([[1.0, value]], dtype=np.float32))
    with pytest.raises(InvalidRequest, match="broken"):
        _joined(_plan(source))


def test_the_largest_f16_still_fits(tmp_path: Path) -> None:
    source = _store(tmp_path, "w", np.full((1, 2), 65519.0, dtype=np.float32))
    assert _joined(_plan(source, "F16")).tolist() == [[65504.0, 65504.0]]


def test_every_bf16_that_f16_can_hold_is_rounded_as_by_way_of_f32() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    bits = every[np.abs(bfloat16_to_float32(every)) < 65520]
    rounded = bfloat16_to_float32(bits).astype(np.float16)
    assert len(bits) > 2**15
    np.testing.assert_array_equal(bfloat16_to_float16(bits).view(np.uint16), rounded.view(np.uint16))


def _store_bf16(folder: Path, values: Floats) -> TensorInfo:
    bits = float32_to_bfloat16(values)
    bits.tofile(folder / "bits")
    return TensorInfo("bits", "BF16", values.shape, folder / "bits", 0, bits.nbytes)


def test_bf16_goes_to_f16_block_by_block_with_its_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_BLOCK_ELEMENTS", 700)
    values = np.random.default_rng(0).normal(size=(96, 32)).astype(np.float32)
    stored = bfloat16_to_float32(float32_to_bfloat16(values)).astype(np.float16)
    tensor = _plan(_store_bf16(tmp_path, values), "F16", 6)
    assert len(list(merge.tensor_blocks(tensor))) > 3
    assert (_joined(tensor) == interleave_halves(stored, 6)).all()


@pytest.mark.parametrize(
    ("value", "says"), [(65536.0, "as bf16 or f32"), (-1e30, "as bf16 or f32"), (np.inf, "broken")]
)
def test_a_bf16_that_f16_cannot_hold_is_refused(tmp_path: Path, value: float, says: str) -> None:
    source = _store_bf16(tmp_path, np.array([[1.0, value]], dtype=np.float32))
    with pytest.raises(InvalidRequest, match=says):
        _joined(_plan(source, "F16"))


def test_a_bf16_that_is_no_number_is_refused(tmp_path: Path) -> None:
    np.array([[0x3F80, 0xFFC0]], dtype=np.uint16).tofile(tmp_path / "bits")
    with pytest.raises(InvalidRequest, match="broken"):
        _joined(_plan(TensorInfo("bits", "BF16", (1, 2), tmp_path / "bits", 0, 4), "F16"))

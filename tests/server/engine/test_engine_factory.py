"""Which engine, device and number type the settings give."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brie_core.errors import BadConfiguration
from brie_core.settings import Settings
from brie_server.engine.factory import create_engine
from brie_server.engine.torch import device
from server.engine.tiny_models import TinyModel


async def test_the_settings_choose_device_and_number_type(tiny_model: TinyModel, tmp_path: Path) -> None:
    engine = create_engine(Settings(home=tmp_path, device="cpu", dtype="bfloat16"), tiny_model.base)
    assert (engine.info().engine, engine.info().device, engine.info().dtype) == ("torch", "cpu", "bfloat16")
    await engine.aclose()


def test_importing_the_factory_does_not_import_torch() -> None:
    code = "import sys, brie_server.engine.factory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_best_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device.choose_device("auto").type == chosen


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadConfiguration, match="cuda"):
        device.choose_device("cuda")


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_that_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert device.choose_dtype("auto", torch.device("cpu")) is dtype


def test_auto_takes_bfloat16_on_accelerators() -> None:
    assert {device.choose_dtype("auto", torch.device(name)) for name in ("cuda", "mps")} == {torch.bfloat16}


def test_a_number_type_that_is_named_is_taken() -> None:
    assert device.choose_dtype("float16", torch.device("cpu")) is torch.float16


@pytest.mark.parametrize(
    ("recommended", "taken", "expected"), [(12, 1, 2 * 2**30), (3, 2, 2**29), (2, 3, 0)], ids=["roomy", "small", "full"]
)
def test_the_cache_on_a_mac_stays_below_the_recommended_memory(
    monkeypatch: pytest.MonkeyPatch, recommended: int, taken: int, expected: int
) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: recommended * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: taken * 2**30)
    assert device.cache_bytes(torch.device("mps")) == expected


@pytest.mark.parametrize(("kept", "emptied"), [(0.4, 0), (0.6, 1)])
def test_what_the_allocator_of_a_mac_keeps_is_given_back_if_it_is_much(
    monkeypatch: pytest.MonkeyPatch, kept: float, emptied: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: int((1 + kept) * 2**30))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: calls.append(None))
    device.give_back(torch.device("mps"))
    assert len(calls) == emptied


def test_shapes_are_few_on_a_mac_alone() -> None:
    targets = [device.choose_target(torch.device(name), torch.float32) for name in ("cpu", "cuda", "mps")]
    assert [target.shapes.few for target in targets] == [False, False, True]

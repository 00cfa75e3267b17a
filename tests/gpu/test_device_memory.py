"""On whatever device is here: memory that adapters, caches and answers took is given back."""

import asyncio
from collections.abc import Callable

import pytest
import torch

from brie_server.engine import thread
from brie_server.engine.torch import device as devices
from brie_server.engine.torch.engine import TorchEngine
from gpu.device import allocated_bytes, taken_bytes
from server.engine.asking import answer, answers, prompt
from server.engine.tiny_models import TinyModel, token_ids

Start = Callable[..., TorchEngine]
ASKED = token_ids(40)
KINDS = ("plain", "rslora", "all-linear")
SLACK = 64 * 2**10
"""A few small tensors that some library may have kept."""
ROOM = 64 * 2**20
"""What an allocator or the C library may take once and keep."""


async def use(engine: TorchEngine, digest: str) -> None:
    assert len(await answer(engine, prompt(ASKED, 5, adapter=digest))) == 5


async def test_an_unloaded_adapter_leaves_nothing_on_the_device(
    tiny_model: TinyModel, device: torch.device, start: Start
) -> None:
    engine, left = start(tiny_model.base, max_blocks=0), []
    for _ in range(2):  # the first time the engine also takes what recorded steps need for good
        before = allocated_bytes(device)
        sizes = [await engine.load_adapter(kind, tiny_model.adapter(kind)) for kind in KINDS]
        for kind in KINDS:
            await use(engine, kind)
        if device.type != "cpu":  # there they lie in numpy's arrays, which torch does not count
            assert allocated_bytes(device) - before >= sum(sizes)
        for kind in KINDS:
            await engine.unload_adapter(kind)
        left.append(allocated_bytes(device))
    assert left[1] - left[0] <= SLACK


async def test_the_cache_is_given_back_when_there_is_nothing_to_do(
    tiny_model: TinyModel, device: torch.device, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "PATIENCE_S", 0.0)
    engine = start(tiny_model.base, max_blocks=0, smallest_capacity=256)
    await answer(engine, prompt(ASKED, 5))
    before = allocated_bytes(device)
    streams = [engine.generate(prompt(ASKED, 200)) for _ in range(8)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    during = allocated_bytes(device)
    await asyncio.gather(*(stream.aclose() for stream in streams))
    for _ in range(2):  # the thread has seen the end of all streams with the first, and been idle before the second
        await engine.unload_adapter("nobody")
    assert during - before > 300 * 2**10
    assert allocated_bytes(device) - before <= SLACK


async def test_two_hundred_loads_and_unloads_take_no_more_memory(
    tiny_model: TinyModel, device: torch.device, start: Start
) -> None:
    engine = start(tiny_model.base)
    folders = [tiny_model.adapter(kind, seed) for kind in ("plain", "all-linear") for seed in range(2)]
    taken = []
    for number in range(220):
        await engine.load_adapter(f"a{number}", folders[number % 4])
        await answers(engine, [prompt(token_ids(1 + number % 10), 2, adapter=f"a{number}"), prompt(ASKED, 2)])
        await engine.unload_adapter(f"a{number}")
        taken.append(taken_bytes(device))
    assert taken[-1] - max(taken[:20]) <= ROOM


def test_the_number_type_is_one_that_the_device_multiplies(device: torch.device) -> None:
    dtype = devices.choose_dtype("auto", device)
    assert device.type == "cpu" or dtype is torch.bfloat16
    ones = torch.ones(4, 4, device=device, dtype=dtype)
    assert (ones @ ones).sum().item() == 64


def test_the_cache_fits_the_memory_that_is_there(device: torch.device) -> None:
    num_bytes = devices.cache_bytes(device)
    assert num_bytes > 2**20
    if device.type == "cuda":
        assert num_bytes < torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        assert num_bytes + torch.mps.driver_allocated_memory() < torch.mps.recommended_max_memory()


def test_what_the_allocator_keeps_unused_is_given_back(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("the CPU has no caching allocator of torch's")
    large = torch.ones(64 * 2**20, device=device)
    taken = taken_bytes(device)
    del large
    devices.give_back(device, most_kept=2**20)
    assert taken - taken_bytes(device) >= 200 * 2**20

"""Many adapters in one batch answer as each does alone; that each answers as in PEFT is tested with the models."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from brie_core.errors import InvalidAdapter
from brie_core.weights.lora import LoraAdapter, read_adapter
from brie_server.engine.torch.adapters import Adapters
from brie_server.engine.torch.architecture import Site, read_architecture
from brie_server.engine.torch.compiled.rows import rows_for
from brie_server.engine.torch.lora import DeviceAdapter, Pair, put_on_device
from brie_server.engine.torch.lora_rows import PackedAdapters
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import CPU, drive, load, load_kind, make_runner, overflowing, packed, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, TinyModel, token_ids

LENGTH, NEW = 30, 25


def a_scheduler() -> Scheduler:
    return Scheduler(Limits(chunk_size=16, smallest_capacity=16), token_budget=2048, context_length=CONTEXT_LENGTH)


def read(model: TinyModel, folder: Path) -> LoraAdapter:
    return read_adapter(folder, model.base.linear_modules)


@pytest.fixture(params=["compiled", "torch"])
def runner(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Runner:
    return make_runner(tiny_model.base, is_compiled=request.param == "compiled")


def test_base_and_adapters_in_one_batch_answer_as_each_does_alone(tiny_model: TinyModel, runner: Runner) -> None:
    kinds = ["plain", "patterns", "one-layer", "all-linear"]
    digests = [None, *(load_kind(runner, tiny_model, kind) for kind in kinds), None]
    asked = [prompt(token_ids(LENGTH, seed), NEW, adapter=digest) for seed, digest in enumerate(digests)]
    alone = [drive(a_scheduler(), runner, [each])[0][0] for each in asked]
    together, steps = drive(a_scheduler(), runner, asked)
    assert together == alone
    assert max(len(step.chunks) for step in steps) == len(asked)


def test_an_adapter_that_overflows_does_not_reach_its_neighbours(tiny_model: TinyModel, runner: Runner) -> None:
    load(runner, "huge", overflowing(read(tiny_model, tiny_model.adapter("plain"))))
    sound = load_kind(runner, tiny_model, "plain")
    asked = [prompt(token_ids(LENGTH), 5, adapter=sound), prompt(token_ids(LENGTH), 5)]
    alone = [drive(a_scheduler(), runner, [each])[0][0] for each in asked]
    together, steps = drive(a_scheduler(), runner, [*asked, prompt(token_ids(3), 5, adapter="huge")])
    assert together == [*alone, []]
    assert max(len(step.chunks) for step in steps) == 3


def test_a_row_left_by_an_adapter_that_overflowed_is_sound(tiny_model: TinyModel, runner: Runner) -> None:
    load(runner, "huge", overflowing(read(tiny_model, tiny_model.adapter("plain"))))
    alone = drive(a_scheduler(), runner, [prompt(token_ids(3), 5)])[0]
    runner.release()
    scheduler = a_scheduler()
    assert drive(scheduler, runner, [prompt(token_ids(LENGTH), 5, adapter="huge")])[0] == [[]]
    assert drive(scheduler, runner, [prompt(token_ids(3), 5)])[0] == alone


def test_scale_is_part_of_b_and_each_part_keeps_its_rank(tiny_model: TinyModel) -> None:
    adapter = read(tiny_model, tiny_model.adapter("patterns"))
    on_device = put_on_device(adapter, read_architecture(tiny_model.base.config), CPU, torch.float32)
    pairs, modules = on_device.pairs[1, Site.QKV], {module.name: module for module in adapter.modules}
    value = modules["model.layers.1.self_attn.v_proj"]
    assert [pair and pair.a_rI.shape[0] for pair in pairs] == [7, 2, 4]
    assert pairs[2] is not None
    torch.testing.assert_close(pairs[2].b_rO, torch.from_numpy(value.b.read_float32()).T * 3 / 4)


def test_values_beyond_the_number_type_are_refused(tiny_model: TinyModel) -> None:
    adapter = read(tiny_model, tiny_model.adapter("plain"))
    loud = replace(adapter, modules=tuple(replace(module, scale=1e6) for module in adapter.modules))
    with pytest.raises(InvalidAdapter) as refused:
        put_on_device(loud, read_architecture(tiny_model.base.config), CPU, torch.float16)
    assert refused.value.code == "adapter_not_finite"


def test_a_module_without_a_place_is_refused(tiny_model: TinyModel) -> None:
    adapter = read(tiny_model, tiny_model.adapter("plain"))
    strange = replace(adapter, modules=(replace(adapter.modules[0], name="model.layers.0.mlp.router"),))
    with pytest.raises(InvalidAdapter, match="router"):
        put_on_device(strange, read_architecture(tiny_model.base.config), CPU, torch.float32)


@dataclass(frozen=True)
class Loaded:
    """Adapters in one of their two forms."""

    own: Any
    convert: Callable[[DeviceAdapter], Any]

    def put(self, digest: str, adapter: DeviceAdapter) -> None:
        self.own.load(digest, self.convert(adapter))


@pytest.fixture(params=["compiled", "torch"])
def adapters(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Loaded:
    """Twelve adapters of rank 2, and "wide" of rank 20, each of its own constant at one site."""
    architecture, rows = read_architecture(tiny_model.base.config), rows_for(CPU, torch.float32)
    adapters = Loaded(Adapters(architecture, CPU, torch.float32), lambda adapter: adapter)
    if request.param == "compiled":
        if rows is None:
            pytest.skip("no C++ compiler here")
        adapters = Loaded(PackedAdapters(architecture, rows), lambda adapter: packed(adapter, architecture))
    for number in range(12):
        pair = Pair(torch.full((2, 32), 1.0), torch.full((2, 32), number + 1.0))
        adapters.put(f"a{number}", DeviceAdapter({(0, Site.O): (pair,)}))
    wide = Pair(torch.full((20, 32), 1.0), torch.full((20, 32), 100.0))
    adapters.put("wide", DeviceAdapter({(0, Site.O): (wide,)}))
    return adapters


def added(adapters: Loaded, tokens: list[tuple[str | None, int]]) -> list[float]:
    """What the adapters add to each token of ones, divided by the 64 of their constant."""
    num_tokens = sum(count for _, count in tokens)
    out_NO = torch.zeros(num_tokens, 32)
    if batch := adapters.own.batch(tokens):
        batch.add(0, Site.O, torch.ones(num_tokens, 32), out_NO)
        batch.add(1, Site.O, torch.ones(num_tokens, 32), out_NO)
    assert (out_NO == out_NO[:, :1]).all()
    values: list[float] = (out_NO[:, 0] / 64).tolist()
    return values


def test_each_token_meets_its_own_adapter_only(adapters: Loaded) -> None:
    tokens = [("a0", 1), (None, 1), ("a3", 2), ("a0", 1), ("wide", 1), ("a1", 100), (None, 1)]
    assert added(adapters, tokens) == [1, 0, 4, 4, 1, 1000, *[2] * 100, 0]


def test_adapters_in_order_may_have_different_numbers_of_tokens(adapters: Loaded) -> None:
    assert added(adapters, [("a0", 1), ("a0", 1), ("a1", 1)]) == [1, 1, 2]


def test_a_slot_keeps_nothing_of_the_adapter_before(adapters: Loaded) -> None:
    other = Pair(torch.full((1, 32), 1.0), torch.full((1, 32), 50.0))
    adapters.put("elsewhere", DeviceAdapter({(1, Site.O): (other,)}))
    for number in range(12):
        assert added(adapters, [(f"a{number}", 1)]) == [number + 1]
    assert added(adapters, [("elsewhere", 1)]) == [25]
    assert added(adapters, [("a0", 1), ("elsewhere", 1)]) == [1, 25]


def test_more_adapters_than_slots_take_turns(adapters: Loaded) -> None:
    for start in range(12):
        numbers = [(start + step) % 12 for step in range(9)]
        assert added(adapters, [(f"a{number}", 1) for number in numbers]) == [number + 1 for number in numbers]


def test_all_memory_of_unloaded_adapters_is_given_back(adapters: Loaded) -> None:
    names = [*(f"a{number}" for number in range(12)), "wide"]
    added(adapters, [(name, 1) for name in names])
    for name in names:
        adapters.own.unload(name)
    assert adapters.own.get("a0") is None
    assert adapters.own.num_bytes == 0


def test_a_digest_loaded_again_is_the_new_adapter(adapters: Loaded) -> None:
    added(adapters, [("a0", 1), ("a1", 1)])
    adapters.own.unload("a0")
    pair = Pair(torch.full((2, 32), 1.0), torch.full((2, 32), 33.0))
    adapters.put("a0", DeviceAdapter({(0, Site.O): (pair,)}))
    assert added(adapters, [("a0", 1), ("a1", 1)]) == [33, 2]


def test_a_step_of_the_base_model_alone_pays_nothing_for_adapters(adapters: Loaded) -> None:
    assert adapters.own.batch([(None, 2)]) is None

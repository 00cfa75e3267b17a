"""Many adapters in one batch answer as each does alone; that each answers as in PEFT is tested with the models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from brie_core.errors import InvalidAdapter
from brie_core.weights.lora import LoraAdapter, read_adapter
from brie_server.engine.torch.adapters import Adapters
from brie_server.engine.torch.architecture import Site, read_architecture
from brie_server.engine.torch.compiled.rows import rows_for
from brie_server.engine.torch.lora import DeviceAdapter, Pair, Place, put_on_device
from brie_server.engine.torch.lora_rows import pack
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import CPU, drive, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, TinyModel, token_ids

LENGTH, NEW = 30, 25


def a_scheduler() -> Scheduler:
    return Scheduler(Limits(chunk_size=16, smallest_capacity=16), token_budget=2048, context_length=CONTEXT_LENGTH)


def read(model: TinyModel, folder: Path) -> LoraAdapter:
    return read_adapter(folder, model.base.linear_modules)


def load(runner: Runner, model: TinyModel, folder: Path) -> str:
    """Load an adapter under its folder's name."""
    runner.load_adapter(folder.name, runner.prepare_adapter(read(model, folder)))
    return folder.name


def load_pairs(runner: Runner, model: TinyModel, digest: str, pairs: Mapping[Place, tuple[Pair | None, ...]]) -> None:
    """Load an adapter of these pairs, in the form that the runner's batches read."""
    adapter, architecture = DeviceAdapter(pairs), read_architecture(model.base.config)
    runner.load_adapter(digest, pack(adapter, architecture) if rows_for(CPU, torch.float32) else adapter)


def test_base_and_adapters_in_one_batch_answer_as_each_does_alone(tiny_model: TinyModel, runner: Runner) -> None:
    kinds = ["plain", "patterns", "one-layer", "all-linear"]
    digests = [None, *(load(runner, tiny_model, tiny_model.adapter(kind)) for kind in kinds), None]
    asked = [prompt(token_ids(LENGTH, seed), NEW, adapter=digest) for seed, digest in enumerate(digests)]
    alone = [drive(a_scheduler(), runner, [each])[0][0] for each in asked]
    together, steps = drive(a_scheduler(), runner, asked)
    assert together == alone
    assert max(len(step.chunks) for step in steps) == len(asked)


def test_an_adapter_that_overflows_does_not_reach_its_neighbours(tiny_model: TinyModel, runner: Runner) -> None:
    module = read(tiny_model, tiny_model.adapter("plain")).modules[0]
    huge = {(0, Site.O): (Pair(torch.full((module.rank, 32), 3e38), torch.full((module.rank, 32), 3e38)),)}
    load_pairs(runner, tiny_model, "huge", huge)
    sound = load(runner, tiny_model, tiny_model.adapter("plain"))
    asked = [prompt(token_ids(LENGTH), 5, adapter=sound), prompt(token_ids(LENGTH), 5)]
    alone = [drive(a_scheduler(), runner, [each])[0][0] for each in asked]
    together, steps = drive(a_scheduler(), runner, [*asked, prompt(token_ids(3), 5, adapter="huge")])
    assert together == [*alone, []]
    assert max(len(step.chunks) for step in steps) == 3


def test_a_row_left_by_an_adapter_that_overflowed_is_sound(tiny_model: TinyModel, runner: Runner) -> None:
    huge = {(0, Site.O): (Pair(torch.full((4, 32), 3e38), torch.full((4, 32), 3e38)),)}
    load_pairs(runner, tiny_model, "huge", huge)
    alone = drive(a_scheduler(), runner, [prompt(token_ids(3), 5)])[0]
    runner.release()
    scheduler = a_scheduler()
    drive(scheduler, runner, [prompt(token_ids(LENGTH), 5, adapter="huge")])
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


@pytest.fixture
def adapters(tiny_model: TinyModel) -> Adapters:
    """Twelve adapters of rank 2, and "wide" of rank 20, each of its own constant at one site."""
    adapters = Adapters(read_architecture(tiny_model.base.config), CPU, torch.float32)
    for number in range(12):
        pair = Pair(torch.full((2, 32), 1.0), torch.full((2, 32), number + 1.0))
        adapters.load(f"a{number}", DeviceAdapter({(0, Site.O): (pair,)}))
    wide = Pair(torch.full((20, 32), 1.0), torch.full((20, 32), 100.0))
    adapters.load("wide", DeviceAdapter({(0, Site.O): (wide,)}))
    return adapters


def added(adapters: Adapters, tokens: list[tuple[str | None, int]]) -> list[float]:
    """What the adapters add to each token of ones, divided by the 64 of their constant."""
    num_tokens = sum(count for _, count in tokens)
    out_NO = torch.zeros(num_tokens, 32)
    if batch := adapters.batch(tokens):
        batch.add(0, Site.O, torch.ones(num_tokens, 32), out_NO)
        batch.add(1, Site.O, torch.ones(num_tokens, 32), out_NO)
    assert (out_NO == out_NO[:, :1]).all()
    values: list[float] = (out_NO[:, 0] / 64).tolist()
    return values


def test_each_token_meets_its_own_adapter_only(adapters: Adapters) -> None:
    tokens = [("a0", 1), (None, 1), ("a3", 2), ("a0", 1), ("wide", 1), ("a1", 100), (None, 1)]
    assert added(adapters, tokens) == [1, 0, 4, 4, 1, 1000, *[2] * 100, 0]


def test_adapters_in_order_may_have_different_numbers_of_tokens(adapters: Adapters) -> None:
    assert added(adapters, [("a0", 1), ("a0", 1), ("a1", 1)]) == [1, 1, 2]


def test_a_slot_keeps_nothing_of_the_adapter_before(adapters: Adapters) -> None:
    other = Pair(torch.full((1, 32), 1.0), torch.full((1, 32), 50.0))
    adapters.load("elsewhere", DeviceAdapter({(1, Site.O): (other,)}))
    for number in range(12):
        assert added(adapters, [(f"a{number}", 1)]) == [number + 1]
    assert added(adapters, [("elsewhere", 1)]) == [25]
    assert added(adapters, [("a0", 1), ("elsewhere", 1)]) == [1, 25]


def test_more_adapters_than_slots_take_turns(adapters: Adapters) -> None:
    for start in range(12):
        numbers = [(start + step) % 12 for step in range(9)]
        assert added(adapters, [(f"a{number}", 1) for number in numbers]) == [number + 1 for number in numbers]


def test_all_memory_of_unloaded_adapters_is_given_back(adapters: Adapters) -> None:
    names = [*(f"a{number}" for number in range(12)), "wide"]
    added(adapters, [(name, 1) for name in names])
    for name in names:
        adapters.unload(name)
    assert adapters.get("a0") is None
    assert adapters.num_bytes == 0


def test_a_digest_loaded_again_is_the_new_adapter(adapters: Adapters) -> None:
    added(adapters, [("a0", 1), ("a1", 1)])
    adapters.unload("a0")
    pair = Pair(torch.full((2, 32), 1.0), torch.full((2, 32), 33.0))
    adapters.load("a0", DeviceAdapter({(0, Site.O): (pair,)}))
    assert added(adapters, [("a0", 1), ("a1", 1)]) == [33, 2]


def test_a_step_of_the_base_model_alone_pays_nothing_for_adapters(adapters: Adapters) -> None:
    assert adapters.batch([(None, 2)]) is None

"""Adapters answer as PEFT does, and many of them in one batch as each does alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from brie_core.errors import InvalidAdapter
from brie_core.weights.lora import LoraAdapter, read_adapter
from brie_server.engine.torch.architecture import Site, read_architecture
from brie_server.engine.torch.lora import Adapters, DeviceAdapter, Pair, put_on_device
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import CPU, drive, make_runner, prompt
from server.engine.tiny_models import ADAPTERS, CONTEXT_LENGTH, FAMILIES, TinyModel, token_ids

LENGTH, NEW = 30, 25


def a_scheduler() -> Scheduler:
    return Scheduler(Limits(chunk_size=16, smallest_capacity=16), token_budget=2048, context_length=CONTEXT_LENGTH)


def read(model: TinyModel, folder: Path) -> LoraAdapter:
    return read_adapter(folder, model.base.linear_modules)


def load(runner: Runner, model: TinyModel, folder: Path) -> str:
    """Load an adapter under its folder's name."""
    adapter = put_on_device(read(model, folder), read_architecture(model.base.config), CPU, torch.float32)
    runner.load_adapter(folder.name, adapter)
    return folder.name


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_answers_as_in_peft(tiny_model: TinyModel, runner: Runner, kind: str) -> None:
    folder, asked = tiny_model.adapter(kind), token_ids(LENGTH)
    (answer,), _ = drive(a_scheduler(), runner, [prompt(asked, NEW, adapter=load(runner, tiny_model, folder))])
    assert answer == tiny_model.reference(asked, NEW, folder)
    assert answer != tiny_model.reference(asked, NEW)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_answers_as_in_peft_on_every_family(tiny_models: dict[str, TinyModel], family: str) -> None:
    model, asked = tiny_models[family], token_ids(LENGTH)
    folder, runner = model.adapter("all-linear"), make_runner(model.base)
    (answer,), _ = drive(a_scheduler(), runner, [prompt(asked, NEW, adapter=load(runner, model, folder))])
    assert answer == model.reference(asked, NEW, folder)


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
    huge = {(0, Site.QKV): Pair(torch.full((module.rank, 32), 3e38), torch.full((module.rank, 64), 3e38))}
    runner.load_adapter("huge", DeviceAdapter(huge))
    sound = load(runner, tiny_model, tiny_model.adapter("plain"))
    asked = [prompt(token_ids(LENGTH), 5, adapter=sound), prompt(token_ids(LENGTH), 5)]
    alone = [drive(a_scheduler(), runner, [each])[0][0] for each in asked]
    together, steps = drive(a_scheduler(), runner, [*asked, prompt(token_ids(3), 5, adapter="huge")])
    assert together == [*alone, []]
    assert max(len(step.chunks) for step in steps) == 3


def test_a_row_left_by_an_adapter_that_overflowed_is_sound(tiny_model: TinyModel, runner: Runner) -> None:
    huge = {(0, Site.QKV): Pair(torch.full((4, 32), 3e38), torch.full((4, 64), 3e38))}
    runner.load_adapter("huge", DeviceAdapter(huge))
    alone = drive(a_scheduler(), runner, [prompt(token_ids(3), 5)])[0]
    runner.release()
    scheduler = a_scheduler()
    drive(scheduler, runner, [prompt(token_ids(LENGTH), 5, adapter="huge")])
    assert drive(scheduler, runner, [prompt(token_ids(3), 5)])[0] == alone


def test_scale_is_part_of_b_and_mixed_ranks_are_stacked(tiny_model: TinyModel) -> None:
    adapter = read(tiny_model, tiny_model.adapter("patterns"))
    on_device = put_on_device(adapter, read_architecture(tiny_model.base.config), CPU, torch.float32)
    pair, modules = on_device.pairs[1, Site.QKV], {module.name: module for module in adapter.modules}
    value = modules["model.layers.1.self_attn.v_proj"]
    assert pair.rank == 7 + 2 + 4
    torch.testing.assert_close(pair.b_KO[9:, 48:], torch.from_numpy(value.b.read_float32()).T * 3 / 4)
    assert not pair.b_KO[9:, :48].any()


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


def test_the_stack_is_kept_as_long_as_the_same_adapters_are_in_use() -> None:
    adapters, pair = Adapters(), Pair(torch.ones(2, 3), torch.ones(2, 3))
    for digest in ("a", "b"):
        adapters.load(digest, DeviceAdapter({(0, Site.O): pair}))
    adapters.batch(["a", "b", None], CPU)
    stack = adapters._stack
    adapters.batch(["b", "a", "a"], CPU)
    assert adapters._stack is stack
    adapters.batch(["a"], CPU)
    assert adapters._stack is not stack


def test_an_unloaded_adapter_leaves_no_copy_behind() -> None:
    adapters, pair = Adapters(), Pair(torch.ones(2, 3), torch.ones(2, 3))
    adapters.load("a", DeviceAdapter({(0, Site.O): pair}))
    adapters.batch(["a"], CPU)
    adapters.unload("a")
    assert adapters._stack is None
    assert adapters.get("a") is None


def test_a_step_of_the_base_model_alone_pays_nothing_for_adapters() -> None:
    assert Adapters().batch([None, None], CPU) is None

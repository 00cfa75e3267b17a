"""Recorded steps: what is replayed is what would be computed, whatever moved since. A recorder on the CPU stands in."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from brie_core.weights.lora import read_adapter
from brie_server.engine.base import Sampling
from brie_server.engine.torch import replays as replays_module
from brie_server.engine.torch.replays import Replays
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import CPU, drive, load, load_kind, make_runner, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, FAMILIES, TinyModel, token_ids

KINDS = (None, "plain", "rslora", "all-linear", None, "patterns", "plain", "one-layer")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does the same operations again on the same tensors, like a graph of CUDA's: what Python decided stays decided."""

    def __init__(self, compute: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.times = 0
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        with self:
            compute()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, out))
        return out

    def __call__(self) -> None:
        self.times += 1
        made: dict[int, torch.Tensor] = {}
        for func, args, kwargs, out in self._calls:
            now = tree_map_only(torch.Tensor, lambda tensor: made.get(id(tensor), tensor), (args, kwargs))
            again = func(*now[0], **now[1])
            for old, new in zip(_tensors(out), _tensors(again), strict=True):
                made[id(old)] = new


def _tensors(found: Any) -> list[torch.Tensor]:
    return [each for each in (found if isinstance(found, list | tuple) else [found]) if isinstance(each, torch.Tensor)]


class Recorder:
    """Keeps what it recorded, to be counted."""

    def __init__(self) -> None:
        self.made: list[Operations] = []

    def __call__(self, compute: Callable[[], None]) -> Operations:
        self.made.append(Operations(compute))
        return self.made[-1]

    @property
    def replayed(self) -> int:
        return sum(each.times for each in self.made)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def runner(tiny_model: TinyModel, recorder: Recorder) -> Runner:
    return make_runner(tiny_model.base, record=recorder)


def a_scheduler(token_budget: int = 4096, **limits: int) -> Scheduler:
    limits = {"smallest_capacity": 16, "chunk_size": 64, "max_rows": 8} | limits
    return Scheduler(Limits(**limits), token_budget=token_budget, context_length=CONTEXT_LENGTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_answers_are_those_of_transformers(
    tiny_models: dict[str, TinyModel], family: str, recorder: Recorder
) -> None:
    model = tiny_models[family]
    runner = make_runner(model.base, record=recorder)
    adapters = [load_kind(runner, model, kind) if kind else None for kind in KINDS]
    lengths = (1, 40, 17, 70, 33, 5, 64, 90)
    asked = [prompt(token_ids(n, n), 12, adapter=a) for n, a in zip(lengths, adapters, strict=True)]
    right = [
        model.reference(each.token_ids, each.max_tokens, model.adapter(each.adapter) if each.adapter else None)
        for each in asked
    ]
    for max_rows in (1, 3, 8):
        answers, steps = drive(a_scheduler(max_rows=max_rows, max_blocks=0), runner, asked)
        assert answers == right, max_rows
    assert recorder.replayed > len(steps) // 2


def test_the_same_workload_again_records_nothing_new(runner: Runner, recorder: Recorder, tiny_model: TinyModel) -> None:
    asked = [prompt(token_ids(length, length), 30) for length in (9, 30, 50)]
    scheduler = a_scheduler(smallest_capacity=128)
    answers, _ = drive(scheduler, runner, asked)
    drive(scheduler, runner, asked)
    made, replayed = len(recorder.made), recorder.replayed
    again, steps = drive(scheduler, runner, asked)
    assert again == answers == [tiny_model.reference(each.token_ids, 30) for each in asked]
    assert len(recorder.made) == made
    assert recorder.replayed - replayed == sum(step.only_decodes for step in steps)


def test_a_cache_that_was_made_anew_is_not_mistaken_for_the_old_one(runner: Runner, tiny_model: TinyModel) -> None:
    for capacity in (64, 128, 64):
        for _ in range(2):
            asked = [prompt(token_ids(capacity // 2 + row, row), 20) for row in range(2)]
            answers, _ = drive(a_scheduler(smallest_capacity=capacity), runner, asked)
            assert answers == [tiny_model.reference(each.token_ids, 20) for each in asked]
        runner.release()


def test_adapters_that_take_each_others_slots_answer_as_themselves(runner: Runner, tiny_model: TinyModel) -> None:
    kinds = ("plain", "all-linear", "one-layer", "rslora")
    for number in range(24):
        adapter = read_adapter(tiny_model.adapter(kinds[number % 4], number % 3), tiny_model.base.linear_modules)
        load(runner, f"a{number}", adapter)
    for turn in range(3):
        for start in (0, 5, 9, 16):
            numbers = [(start + step * (turn + 1)) % 24 for step in range(5)]
            asked = [prompt(token_ids(20 + number, number), 8, adapter=f"a{number}") for number in numbers]
            answers, _ = drive(a_scheduler(), runner, asked)
            folders = [tiny_model.adapter(kinds[number % 4], number % 3) for number in numbers]
            assert answers == [
                tiny_model.reference(each.token_ids, 8, folder) for each, folder in zip(asked, folders, strict=True)
            ]


def test_an_adapter_of_more_layers_than_those_before_it_has_them_all(runner: Runner, tiny_model: TinyModel) -> None:
    """In a slot that was empty when the step of both was recorded, at places that the pool did not have then."""
    for digest, kind in (("a", "one-layer"), ("b", "one-layer"), ("c", "all-linear")):
        load(runner, digest, read_adapter(tiny_model.adapter(kind), tiny_model.base.linear_modules))
    for second, kind in (("b", "one-layer"), ("c", "all-linear")):
        asked = [prompt(token_ids(20, row), 10, adapter=digest) for row, digest in enumerate(("a", second))]
        answers, _ = drive(a_scheduler(smallest_capacity=64), runner, asked)
        folders = [tiny_model.adapter(each) for each in ("one-layer", kind)]
        right = [tiny_model.reference(each.token_ids, 10, own) for each, own in zip(asked, folders, strict=True)]
        assert answers == right
        if second == "b":
            runner.unload_adapter("b")


def test_a_pool_that_comes_again_is_not_mistaken_for_the_old_one(runner: Runner, tiny_model: TinyModel) -> None:
    asked = prompt(token_ids(20), 8, adapter="a")
    for kind in ("plain", "rslora", "plain", "all-linear"):
        load(runner, "a", read_adapter(tiny_model.adapter(kind), tiny_model.base.linear_modules))
        for _ in range(2):
            assert drive(a_scheduler(), runner, [asked])[0] == [
                tiny_model.reference(asked.token_ids, 8, tiny_model.adapter(kind))
            ]
        runner.unload_adapter("a")


def test_chance_is_drawn_from_replayed_logits_alike(tiny_model: TinyModel, recorder: Recorder) -> None:
    how = Sampling(seed=7, temperature=0.8, top_p=0.9)
    asked = [prompt(token_ids(20, row), 40, sampling=how) for row in range(3)]
    plain, _ = drive(a_scheduler(), make_runner(tiny_model.base, is_compiled=False), asked)
    recorded, _ = drive(a_scheduler(), make_runner(tiny_model.base, record=recorder), asked)
    assert recorded == plain
    assert recorder.replayed > 20


def test_what_cannot_be_recorded_is_computed(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    def refusing(compute: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("no graph today")

    asked = prompt(token_ids(9), 30)
    answers, _ = drive(a_scheduler(), make_runner(tiny_model.base, record=refusing), [asked])
    assert answers == [tiny_model.reference(asked.token_ids, 30)]
    assert "could not be recorded" in caplog.text


def test_few_are_kept_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays_module, "_MOST", 3)
    made: list[int] = []

    def record(compute: Callable[[], None]) -> Callable[[], None]:
        made.append(1)
        return compute

    replays = Replays(record, CPU)

    def run(key: int) -> list[float]:
        found: list[float] = replays.run(key, [key], lambda numbers: numbers.float() * 2).tolist()
        return found

    for key in (1, 2, 3, 1, 2, 3):
        assert run(key) == [2.0 * key]
    assert len(made) == 3
    assert run(4) == [8.0] and run(3) == [6.0]
    assert len(made) == 3
    for _ in range(2):  # the oldest went when the fourth came
        assert run(1) == [2.0]
    assert len(made) == 4

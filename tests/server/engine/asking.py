"""Short ways to ask an engine, or a runner without its thread. It knows the contract and makes no assertions."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import torch

from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import LoraAdapter, read_adapter
from brie_server.engine.base import Constraint, Engine, Prompt, Sampling, Token
from brie_server.engine.torch.architecture import Architecture, read_architecture
from brie_server.engine.torch.compiled.rows import rows_for
from brie_server.engine.torch.lora import DeviceAdapter
from brie_server.engine.torch.lora_rows import PackedAdapter, pack
from brie_server.engine.torch.replays import Record
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Scheduler
from brie_server.engine.torch.sequence import Sequence
from brie_server.engine.torch.shapes import EXACT, Shapes
from brie_server.engine.torch.step import Step
from brie_server.engine.torch.target import Target
from server.engine.tiny_models import TinyModel

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0)


def prompt(
    token_ids: tuple[int, ...],
    max_tokens: int,
    *,
    adapter: str | None = None,
    sampling: Sampling = GREEDY,
    stop_ids: frozenset[int] = frozenset(),
    **wanted: Any,
) -> Prompt:
    """A greedy prompt without stop tokens, if not told otherwise."""
    return Prompt(
        token_ids=token_ids, max_tokens=max_tokens, stop_ids=stop_ids, sampling=sampling, adapter=adapter, **wanted
    )


@dataclass(frozen=True)
class Among:
    """A form: of these tokens alone, so many at least and at most."""

    ids: frozenset[int]
    least: int
    most: int = 1000

    def begin(self) -> Constraint:
        """An answer that has no token yet."""
        return _SoFar(self)


class _SoFar:
    def __init__(self, form: Among) -> None:
        self._form = form
        self.seen: list[int] = []

    @property
    def may_end(self) -> bool:
        return len(self.seen) >= self._form.least

    @property
    def is_over(self) -> bool:
        return len(self.seen) >= self._form.most

    def allowed(self) -> bytes:
        bits = sum(1 << token for token in self._form.ids)
        return bits.to_bytes(bits.bit_length() // 8 + 1, "little")

    def accept(self, token: int) -> None:
        assert token in self._form.ids
        self.seen.append(token)


async def tokens(engine: Engine, asked: Prompt) -> list[Token]:
    """The whole answer."""
    return [token async for token in engine.generate(asked)]


async def answer(engine: Engine, asked: Prompt) -> list[int]:
    """The whole answer's ids."""
    return [token.id for token in await tokens(engine, asked)]


async def answers(engine: Engine, asked: list[Prompt]) -> list[list[int]]:
    """The answers to prompts that run at once."""
    return await asyncio.gather(*(answer(engine, each) for each in asked))


def make_runner(
    base: BaseModel,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    shapes: Shapes = EXACT,
    *,
    is_compiled: bool = True,
    record: Record | None = None,
) -> Runner:
    """A runner without scheduler and thread, in float32 on the CPU if not told otherwise."""
    rows = rows_for(device, dtype) if is_compiled and shapes is EXACT and record is None else None
    return Runner(base, read_architecture(base.config), Target(device, dtype, shapes, rows, record=record))


def load(runner: Runner, digest: str, adapter: LoraAdapter) -> None:
    """Load an adapter as `digest`."""
    runner.load_adapter(digest, runner.prepare_adapter(adapter))


def load_kind(runner: Runner, model: TinyModel, kind: str) -> str:
    """Load a model's adapter of a kind, under that name."""
    load(runner, kind, read_adapter(model.adapter(kind), model.base.linear_modules))
    return kind


def overflowing(adapter: LoraAdapter) -> LoraAdapter:
    """The same, with values that float32 holds and products that it does not."""
    return replace(adapter, modules=tuple(replace(module, scale=1e38) for module in adapter.modules))


def drive(scheduler: Scheduler, runner: Runner, asked: list[Prompt]) -> tuple[list[list[int]], list[Step]]:
    """The answers to prompts that run at once, without a thread, and the steps it took."""
    sequences, steps = [Sequence(each) for each in asked], []
    for sequence in sequences:
        scheduler.add(sequence)
    while step := scheduler.plan():
        steps.append(step)
        scheduler.advance(step, runner.run(step))
    return [sequence.token_ids[len(sequence.prompt.token_ids) :] for sequence in sequences], steps


def packed(adapter: DeviceAdapter, architecture: Architecture) -> PackedAdapter:
    """An adapter that lies on no disk, as the compiled products read it."""
    factors = (
        (place, [(pair.a_rI.numpy(), pair.b_rO.T.numpy()) if pair else None for pair in pairs])
        for place, pairs in adapter.pairs.items()
    )
    return pack(adapter.rank, adapter.pairs.keys(), factors, architecture)

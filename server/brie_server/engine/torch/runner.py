"""Runs steps: model, cache and adapters on one device. It knows what a step says, and nothing of queues or threads."""

# tensor names carry their shape

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import LoraAdapter
from brie_server.engine.base import Prompt, Sampling
from brie_server.engine.torch.adapters import Adapters
from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.batch import build_batch
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.compiled.operations import CompiledOperations, can_compile
from brie_server.engine.torch.device import give_back
from brie_server.engine.torch.layout import lay_out
from brie_server.engine.torch.logprobs import score_prompts
from brie_server.engine.torch.lora_rows import PackedAdapters, can_pack
from brie_server.engine.torch.lora_windows import WindowsBatch
from brie_server.engine.torch.model import Decoder
from brie_server.engine.torch.operations import Operations, TensorOperations
from brie_server.engine.torch.pooling import sum_hidden
from brie_server.engine.torch.replays import Replays
from brie_server.engine.torch.sampler import sample
from brie_server.engine.torch.sequence import Sequence, row_of
from brie_server.engine.torch.shapes import DOUBLING
from brie_server.engine.torch.step import Step
from brie_server.engine.torch.target import Target
from brie_server.engine.torch.weights import load_weights


class Runner:
    """All tensors of the engine; used by one thread."""

    def __init__(self, base: BaseModel, architecture: Architecture, target: Target) -> None:
        self._architecture, self._target = architecture, target
        device, dtype = target.device, target.dtype
        weights = load_weights(base, architecture, target)
        self._model = Decoder(architecture, weights, _operations(architecture, target))
        self._cache = Cache(architecture, device, dtype, target.shapes)
        self._adapters = _adapters(architecture, target)
        self._replays = Replays(target.record, device) if target.record else None

    @torch.inference_mode()
    def run(self, step: Step) -> list[int | None]:
        """Compute a step; one token for each of `step.sampling`, None for one that none can be chosen for.

        Logprobs and hidden states that were asked for are left with the sequences.
        """
        self._make_room(step)
        if self._replays and isinstance(self._adapters, Adapters) and step.only_decodes:
            logits_LV = self._replayed(step, self._replays, self._adapters)
        else:
            logits_LV = self._computed(step)
        for keep in step.keeps:
            self._cache.keep(keep)
        for block in step.dropped:
            self._cache.drop(block)
        return _tokens(logits_LV, step)

    def release(self) -> None:
        """Give back the cache; the model, the adapters and the kept blocks stay."""
        self._forget_recordings()
        self._cache.release()
        give_back(self._target.device)

    def reset(self) -> None:
        """After a failure: give back the cache and the kept blocks, whatever their state."""
        self._forget_recordings()
        self._cache.release()
        self._cache.drop_all()
        give_back(self._target.device)

    def adapter_bytes(self, digest: str) -> int | None:
        """The size on the device of a loaded adapter, None for one that is not."""
        adapter = self._adapters.get(digest)
        return adapter.num_bytes if adapter else None

    def prepare_adapter(self, adapter: LoraAdapter) -> Any:
        """What `load_adapter` takes; may be called on any thread. Raises InvalidAdapter."""
        return self._adapters.prepare(adapter)

    def load_adapter(self, digest: str, adapter: Any) -> int:
        """Take in an adapter unless it is there already; returns its size on the device."""
        return self._adapters.load(digest, adapter).num_bytes

    def unload_adapter(self, digest: str) -> None:
        """Free an adapter; no sequence that uses it may run again."""
        self._adapters.unload(digest)
        give_back(self._target.device, most_kept=0)

    def _forget_recordings(self) -> None:
        """They hold memory of their own."""
        if self._replays:
            self._replays.clear()

    def _computed(self, step: Step) -> Tensor:
        target = self._target
        layout, numbers = lay_out(step, target.shapes)
        numbers_X = torch.tensor(numbers, device=target.device)
        batch = build_batch(layout, numbers_X, self._architecture, target.dtype)
        lora = self._adapters.batch(_adapters_of(step, layout.num_tokens))
        x_NE = self._model.forward(batch, self._cache, lora)
        if any(chunk.sequence.embeds for chunk in step.chunks):
            sum_hidden(self._model.hidden(x_NE), step.chunks, target.shapes)
        return self._model.logits(x_NE[batch.logits_S])

    def _replayed(self, step: Step, replays: Replays, adapters: Adapters) -> Tensor:
        """The same for a step of single tokens, in shapes that come again."""
        layout, numbers = lay_out(step, DOUBLING)
        windows = adapters.windows(_adapters_of(step, layout.num_tokens), DOUBLING)
        of_lora = [number for window in windows for number in window.slots]

        def compute(numbers_X: Tensor) -> Tensor:
            of_batch_X, of_lora_X = torch.split(numbers_X, [len(numbers), len(of_lora)])
            batch = build_batch(layout, of_batch_X, self._architecture, self._target.dtype)
            lora = WindowsBatch(windows, of_lora_X) if windows else None
            return self._model.logits(self._model.forward(batch, self._cache, lora)[batch.logits_S])

        key = self._cache.tensors, layout, tuple(window.layout for window in windows)
        return replays.run(key, [*numbers, *of_lora], compute)

    def _make_room(self, step: Step) -> None:
        for move in step.moves:
            self._cache.move(move)
        self._cache.reshape(step.rectangle)
        for restore in step.restores:
            self._cache.restore(restore)
        for chunk in step.chunks:
            self._cache.reserve(row_of(chunk.sequence), chunk.start, chunk.end)


def _operations(architecture: Architecture, target: Target) -> Operations:
    if target.rows is not None and can_compile(architecture):
        return CompiledOperations(architecture, target.rows)
    return TensorOperations(architecture)


def _adapters(architecture: Architecture, target: Target) -> Adapters | PackedAdapters:
    if target.rows is not None and can_pack(architecture):
        return PackedAdapters(architecture, target.rows)
    return Adapters(architecture, target.device, target.dtype, target.shapes)


def _adapters_of(step: Step, num_tokens: int) -> list[tuple[str | None, int]]:
    """Each chunk's digest and number of tokens, of `num_tokens` in all: whatever repeats the last token is as it is."""
    *others, last = [(each.sequence.prompt.adapter, each.num_tokens) for each in step.chunks]
    return [*others, (last[0], num_tokens - sum(count for _, count in others))]


def _tokens(logits_LV: Tensor, step: Step) -> list[int | None]:
    """A step's logits are of those who sample, then of the prompts' positions that are scored, then padding."""
    num_sampling, num_scored = len(step.sampling), sum(len(chunk.scored) for chunk in step.chunks)
    if num_scored:
        score_prompts(logits_LV[num_sampling : num_sampling + num_scored], step.chunks)
        logits_LV = logits_LV[:num_sampling]
    return sample(logits_LV, _with_padding(step.sampling, logits_LV.shape[0]))[:num_sampling]


def _with_padding(sampling: Iterable[Sequence], num_rows: int) -> list[Sequence]:
    """Somebody for each row of logits: those that are padding get nobody, who is greedy and draws no chance."""
    sequences = list(sampling)
    nobody = Prompt(token_ids=(0,), max_tokens=1, stop_ids=frozenset(), sampling=Sampling(temperature=0))
    missing = num_rows - len(sequences)
    return sequences + [Sequence(nobody)] * missing if missing else sequences

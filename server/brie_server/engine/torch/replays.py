"""Steps that were computed before, recorded and replayed. It knows layouts and numbers, no model.

On an accelerator a step of single tokens is hundreds of operations that each take less time than asking for them. A
recording asks for all at once. It holds addresses and no tensor: its key must name everything that decides which
operations they are, and be another one as soon as one of the tensors is.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
_MOST = 48
"""Recordings that are kept, the least recently used forgotten first; each has some hundred operations."""

Replay = Callable[[], None]
Record = Callable[[Callable[[], None]], Replay]
"""From a computation whose tensors stay where they are to what does the same again."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """A layout that is replayed: where its numbers are read from, and where it leaves its logits."""

    numbers_X: Tensor
    result_SV: Tensor
    replay: Replay


@dataclass(slots=True)
class _Met:
    """A layout that was computed, and what came of recording it."""

    shape: tuple[int, ...]
    """Of its logits."""
    recording: _Recording | None = None
    failed: bool = False


class Replays:
    """All recordings of one runner; used by one thread."""

    def __init__(self, record: Record, device: torch.device) -> None:
        self._record, self._device = record, device
        self._met: OrderedDict[Hashable, _Met] = OrderedDict()
        self._results: dict[tuple[int, ...], Tensor] = {}
        """By shape: where the recordings leave their logits, which the next of them overwrites."""

    def run(self, key: Hashable, numbers: Sequence[int], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What `compute` makes of the numbers on the device; from the second time on it is replayed.

        The first time computes as if nothing were recorded: most layouts never come again.
        """
        met = self._met.get(key)
        if met is not None and met.recording is None and not met.failed:
            self._try(met, numbers, compute)
        if met is None or met.recording is None:
            logits_SV = compute(torch.tensor(numbers, device=self._device))
            self._remember(key, met or _Met(tuple(logits_SV.shape)))
            return logits_SV
        self._remember(key, met)
        met.recording.numbers_X.copy_(torch.tensor(numbers))
        met.recording.replay()
        return met.recording.result_SV

    def clear(self) -> None:
        """Forget all, and free what they hold."""
        self._met.clear()
        self._results.clear()

    def _remember(self, key: Hashable, met: _Met) -> None:
        self._met[key] = met
        self._met.move_to_end(key)
        while len(self._met) > _MOST:
            self._met.popitem(last=False)

    def _try(self, met: _Met, numbers: Sequence[int], compute: Callable[[Tensor], Tensor]) -> None:
        numbers_X = torch.tensor(numbers, device=self._device)
        if (result_SV := self._results.get(met.shape)) is None:
            result_SV = self._results[met.shape] = torch.empty(met.shape, device=self._device)
        try:
            replay = self._record(lambda: _put(compute(numbers_X), result_SV))
            met.recording = _Recording(numbers_X, result_SV, replay)
        except RuntimeError:
            met.failed = True
            logger.exception("A step could not be recorded; it is computed each time instead.")


def _put(computed_SV: Tensor, result_SV: Tensor) -> None:
    result_SV.copy_(computed_SV)


class CudaRecorder:
    """Records by CUDA's graphs, all in one pool of memory: no two run at once, and none keeps a result there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], None]) -> Replay:
        """Raises RuntimeError for what cannot be recorded. Other threads may use the device meanwhile."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                compute()
            finally:
                graph.capture_end()
        here.wait_stream(self._stream)
        return graph.replay

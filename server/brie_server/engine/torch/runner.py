"""Runs steps: model, cache and adapters on one device. It knows what a step says, and nothing of queues or threads."""

# tensor names carry their shape

import torch

from brie_core.weights.base_model import BaseModel
from brie_server.engine.torch.adapters import Adapters
from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.batch import build_batch
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.lora import DeviceAdapter, adapter_dtype
from brie_server.engine.torch.model import Decoder
from brie_server.engine.torch.sampler import sample
from brie_server.engine.torch.sequence import row_of
from brie_server.engine.torch.step import Step
from brie_server.engine.torch.weights import load_weights


class Runner:
    """All tensors of the engine; used by one thread."""

    def __init__(self, base: BaseModel, architecture: Architecture, device: torch.device, dtype: torch.dtype) -> None:
        self._architecture, self._device, self._dtype = architecture, device, dtype
        self._model = Decoder(architecture, load_weights(base, architecture, device, dtype))
        self._cache = Cache(architecture, device, dtype)
        self._adapters = Adapters(architecture, device, adapter_dtype(device, dtype))

    @torch.inference_mode()
    def run(self, step: Step) -> list[int | None]:
        """Compute a step; one token for each of `step.sampling`, None for one whose logits are not finite."""
        self._make_room(step)
        batch = build_batch(step, self._architecture, self._device, self._dtype)
        lora = self._adapters.batch([(each.sequence.prompt.adapter, each.num_tokens) for each in step.chunks])
        logits_SV = self._model.forward(batch, self._cache, lora)
        for keep in step.keeps:
            self._cache.keep(keep)
        for block in step.dropped:
            self._cache.drop(block)
        return sample(logits_SV, step.sampling)

    def release(self) -> None:
        """Give back the cache; the model, the adapters and the kept blocks stay."""
        self._cache.release()

    def reset(self) -> None:
        """After a failure: give back the cache and the kept blocks, whatever their state."""
        self._cache.release()
        self._cache.drop_all()

    def adapter_bytes(self, digest: str) -> int | None:
        """The size on the device of a loaded adapter, None for one that is not."""
        adapter = self._adapters.get(digest)
        return adapter.num_bytes if adapter else None

    def load_adapter(self, digest: str, adapter: DeviceAdapter) -> int:
        """Take in an adapter unless it is there already; returns its size on the device."""
        return self._adapters.load(digest, adapter).num_bytes

    def unload_adapter(self, digest: str) -> None:
        """Free an adapter; no sequence that uses it may run again."""
        self._adapters.unload(digest)
        _return_memory(self._device)

    def _make_room(self, step: Step) -> None:
        for move in step.moves:
            self._cache.move(move)
        self._cache.reshape(step.rectangle)
        for restore in step.restores:
            self._cache.restore(restore)
        for chunk in step.chunks:
            self._cache.reserve(row_of(chunk.sequence), chunk.start, chunk.end)


def _return_memory(device: torch.device) -> None:
    """Give what is free back to the system: the allocators of GPUs keep it for themselves."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()

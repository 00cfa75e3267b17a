"""One model in llama.cpp with its cache and its adapters, as objects that fail in Python. It knows no request.

Nothing here is safe to call from two threads at once.
"""

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from brie_core.errors import BadConfiguration, InvalidAdapter
from brie_server.engine.llamacpp.batch import Batch
from brie_server.engine.llamacpp.library import errors_told, first_of, open_model
from brie_server.engine.llamacpp.scheduler import Seat

CACHE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}
"""ggml's numbers for what keys and values may be stored as."""
_FLASH_ATTENTION = {"float32": 0, "float16": -1, "bfloat16": -1}
"""-1 is wherever it can. It rounds keys and values to float16 whatever they are stored as: with float32, never."""


class Model:
    """The weights."""

    def __init__(self, file: Path, *, offload: bool) -> None:
        """Raises BadConfiguration for a file that llama.cpp cannot generate from."""
        self.handle = open_model(file, offload=offload)
        if not llama_cpp.llama_model_has_decoder(self.handle):
            self.close()
            raise BadConfiguration(f"{file} holds a model that does not generate text.")
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.handle)))
        self.context_length = int(llama_cpp.llama_model_n_ctx_train(self.handle))
        self.keeps_parts = not any(
            asked(self.handle) for asked in (llama_cpp.llama_model_is_recurrent, llama_cpp.llama_model_is_hybrid)
        )
        """Whether the beginning of what a row of the cache holds can be kept without the rest."""

    def cache_bytes(self, dtype: str) -> int:
        """What one token takes in the cache, or a little more."""
        head = llama_cpp.llama_model_n_embd(self.handle) // max(1, llama_cpp.llama_model_n_head(self.handle))
        values = 2 * head * llama_cpp.llama_model_n_head_kv(self.handle) * llama_cpp.llama_model_n_layer(self.handle)
        return int(max(1, values)) * (4 if dtype == "float32" else 2)

    def load_adapter(self, file: Path) -> Any:
        """A `llama_adapter_lora *`; raises InvalidAdapter with llama.cpp's own reason."""
        with errors_told() as errors:
            adapter = llama_cpp.llama_adapter_lora_init(self.handle, str(file).encode())
            if not adapter:  # a NULL of ctypes is false, but it is not None
                reason = first_of(errors).replace(str(file), "the adapter")
                raise InvalidAdapter(f"llama.cpp does not take the adapter: {reason}", code="adapter_unsupported")
        return adapter

    def close(self) -> None:
        """Free the weights and all adapters; may be called twice."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a context is."""

    num_cells: int
    """Tokens that fit the cache, of all rows together."""
    num_rows: int
    most_tokens: int
    """In one decode."""
    threads: int
    dtype: str
    """Of keys and values."""


class Context:
    """The cache of keys and values, and one decode at a time over it."""

    def __init__(self, model: Model, shape: Shape) -> None:
        """Raises BadConfiguration when there is no memory for it."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = shape.num_cells, shape.num_rows, True
        params.n_batch = params.n_ubatch = shape.most_tokens
        params.n_outputs_max = shape.num_rows
        params.n_threads = params.n_threads_batch = shape.threads
        params.type_k = params.type_v = CACHE_TYPES[shape.dtype]
        params.flash_attn_type = _FLASH_ATTENTION[shape.dtype]
        params.no_perf = True
        with errors_told() as errors:
            self._handle = llama_cpp.llama_init_from_model(model.handle, params)
            if not self._handle:
                raise BadConfiguration(f"llama.cpp cannot make room for {shape.num_cells} tokens: {first_of(errors)}")
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._batch = Batch(shape.most_tokens)
        self._row = ctypes.c_float * model.vocab_size

    def seat(self, seat: Seat) -> None:
        """Give a row the beginning of another, or cut it down to its own."""
        if seat.source == seat.place:
            llama_cpp.llama_memory_seq_rm(self._memory, seat.place, seat.keep, -1)
        else:
            llama_cpp.llama_memory_seq_rm(self._memory, seat.place, -1, -1)
            llama_cpp.llama_memory_seq_cp(self._memory, seat.source, seat.place, 0, seat.keep)

    def cut(self, row: int, keep: int) -> None:
        """Forget what a row holds after its first `keep` tokens."""
        llama_cpp.llama_memory_seq_rm(self._memory, row, keep, -1)

    def use(self, adapter: Any) -> None:
        """Apply this adapter alone from now on; None is the base. Other rows' caches are not recomputed for it."""
        if adapter is None:
            failed = llama_cpp.llama_set_adapters_lora(self._handle, None, 0, None)
        else:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
            failed = llama_cpp.llama_set_adapters_lora(self._handle, adapters, 1, (ctypes.c_float * 1)(1.0))
        if failed:
            raise RuntimeError(f"llama_set_adapters_lora returned {failed}")

    def decode(self, chunks: Iterable[tuple[Any, int, int, bool]]) -> list[npt.NDArray[np.float32]]:
        """Compute (tokens, start, row, wanted) in one go; the logits after each chunk that wants them, not copied.

        They are valid until the next decode. Raises RuntimeError when llama.cpp fails.
        """
        self._batch.clear()
        added = [(self._batch.add(tokens, start, row, wanted=wanted), wanted) for tokens, start, row, wanted in chunks]
        if failed := llama_cpp.llama_decode(self._handle, self._batch.describe()):
            raise RuntimeError(f"llama_decode returned {failed}")
        return [self._logits(index) for index, wanted in added if wanted]

    def close(self) -> None:
        """Free the cache; may be called twice."""
        if self._handle:
            llama_cpp.llama_free(self._handle)
            self._handle = None

    def _logits(self, index: int) -> npt.NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._handle, index)
        if not pointer:
            raise RuntimeError("llama.cpp has no logits for a token that asked for them")
        memory = self._row.from_address(ctypes.addressof(pointer.contents))
        logits: npt.NDArray[np.float32] = np.ctypeslib.as_array(memory)
        return logits

"""llama.cpp as a judge of files: its log, its tokenizer, its greedy answer. It knows no Hugging Face and no plan.

Only public functions of llama.h are called. `Llama` is not used: it allocates per context length, prints, and answers
from a tokenizer buffer of its own.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brie_core.errors import EngineFailure

_BATCH = 64
_ERROR_LEVEL = 4
_F32 = 0  # ggml's number

Floats = npt.NDArray[np.float32]


class Log:
    """The one listener of llama.cpp's process-wide log. It must outlive every call into the library: a callback
    that was collected ends the process with a segmentation fault, much later."""

    def __init__(self) -> None:
        import llama_cpp

        self.lines: list[str] = []
        self.errors: list[str] = []
        self.heard: Callable[[str], None] | None = None
        self.callback = llama_cpp.llama_log_callback(self._receive)

    def reason(self, file: Path) -> str:
        """What llama.cpp first complained of, without the folder that `file` lies in."""
        return self.errors[0].replace(str(file), file.name) if self.errors else "it gave no reason"

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode(errors="replace").strip()
        self.lines.append(line)
        if level == _ERROR_LEVEL:
            self.errors.append(line)
        if self.heard:
            self.heard(line)


@cache
def _log() -> Log:
    return Log()


@contextmanager
def listening(heard: Callable[[str], None] | None = None) -> Iterator[Log]:
    """While it lasts, llama.cpp's log goes into the yielded object, and to `heard`, and nowhere else."""
    import llama_cpp

    log = _log()
    before, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    log.lines, log.errors, log.heard = [], [], heard
    llama_cpp.llama_log_set(log.callback, ctypes.c_void_p())
    try:
        yield log
    finally:
        llama_cpp.llama_log_set(before, data)
        log.heard = None


class LoadedFile:
    """An open GGUF file; use `open_file`."""

    def __init__(self, model: Any) -> None:
        import llama_cpp

        self._api = llama_cpp
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._buffer = (llama_cpp.llama_token * 4096)()
        self._adapter: Any = None

    @contextmanager
    def adapted(self, file: Path) -> Iterator[None]:
        """Answers come with the GGUF adapter in `file`, at scale 1; raises EngineFailure if llama.cpp refuses it."""
        with listening() as log:
            adapter = self._api.llama_adapter_lora_init(self._model, str(file).encode())
            if not adapter:  # a NULL of ctypes is false, but it is not None
                reason = log.reason(file)
                raise EngineFailure(f"llama.cpp does not load the adapter: {reason}", code="export_not_loadable")
        self._adapter = adapter
        try:
            yield
        finally:
            self._adapter = None
            self._api.llama_adapter_lora_free(adapter)

    def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids, with special tokens in the text recognised."""
        data = text.encode()
        count = self._tokenize(data, add_special_tokens)
        if count < 0:
            self._buffer = (self._api.llama_token * -count)()
            count = self._tokenize(data, add_special_tokens)
        return list(self._buffer[:count])

    def _tokenize(self, data: bytes, add_special: bool) -> int:  # noqa: FBT001  # as in llama.h
        size = len(self._buffer)
        return int(
            self._api.llama_tokenize(self._vocab, data, len(data), self._buffer, size, add_special, True)  # noqa: FBT003
        )

    def text(self, tokens: Iterable[int]) -> str:
        """The tokens' text; special tokens have none, and bytes that are no whole character become U+FFFD."""
        return b"".join(map(self._piece, tokens)).decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        piece = ctypes.create_string_buffer(32)
        if (count := self._to_piece(token, piece)) < 0:  # some tokens are a hundred spaces
            piece = ctypes.create_string_buffer(-count)
            count = self._to_piece(token, piece)
        return piece.raw[:count]

    def _to_piece(self, token: int, piece: ctypes.Array[ctypes.c_char]) -> int:
        return int(self._api.llama_token_to_piece(self._vocab, token, piece, len(piece), 0, False))  # noqa: FBT003

    def ends_answer(self, token: int) -> bool:
        """Whether llama.cpp stops generating at this token."""
        return bool(self._api.llama_vocab_is_eog(self._vocab, token))

    def chat_template(self) -> str | None:
        """As the file holds it."""
        text = self._api.llama_model_chat_template(self._model, None)
        return text.decode() if text else None

    def token_text(self, role: str) -> str:
        """The text of the bos or eos token; empty if there is none."""
        token = getattr(self._api, f"llama_vocab_{role}")(self._vocab)
        return self._api.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else ""

    def answer(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Greedy continuation, until the model ends it; raises EngineFailure for logits that are no numbers."""
        context = self._context(len(prompt) + max_tokens)
        try:
            return self._generate(context, list(prompt), max_tokens)
        finally:
            self._api.llama_free(context)

    def logits(self, windows: Iterable[Sequence[int]]) -> Iterator[Floats]:
        """A row of logits after each token, window after window, in blocks that are overwritten by the next.

        Keys and values are kept in f32, so that what differs from the model is the file.
        """
        windows = list(windows)
        context = self._context(max(map(len, windows)), exact=True)
        try:
            for window in windows:
                self._api.llama_memory_clear(self._api.llama_get_memory(context), True)  # noqa: FBT003  # as in llama.h
                for start in range(0, len(window), _BATCH):
                    yield self._decode_all(context, window[start : start + _BATCH], start)
        finally:
            self._api.llama_free(context)

    def _decode_all(self, context: Any, tokens: Sequence[int], start: int) -> Floats:
        """The logits after each of `tokens`, the first of which stands at `start`."""
        batch = self._api.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, True
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            failed = self._api.llama_decode(context, batch)
            pointer = self._api.llama_get_logits(context)
        finally:
            self._api.llama_batch_free(batch)
        if failed or not pointer:
            raise EngineFailure("llama.cpp computes no logits from the file.", code="export_not_loadable")
        shape = (len(tokens), self._api.llama_vocab_n_tokens(self._vocab))
        return np.ctypeslib.as_array(pointer, shape)

    def _context(self, length: int, *, exact: bool = False) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = length, _BATCH, _BATCH
        if exact:
            params.type_k = params.type_v = _F32
            params.flash_attn_type = self._api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # llama.cpp spins at every barrier: with a thread per core it crawls on a busy machine.
        params.n_threads = params.n_threads_batch = max(1, (os.cpu_count() or 1) // 2)
        context = self._api.llama_init_from_model(self._model, params)
        if not context:
            raise EngineFailure("llama.cpp could not make a context.", code="export_not_loadable")
        if self._adapter:
            adapters = (self._api.llama_adapter_lora_p_ctypes * 1)(self._adapter)
            self._api.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
        return context

    def _generate(self, context: Any, prompt: list[int], max_tokens: int) -> list[int]:
        for start in range(0, len(prompt) - 1, _BATCH):
            self._decode(context, prompt[:-1][start : start + _BATCH])
        answer: list[int] = []
        token = prompt[-1]
        while len(answer) < max_tokens:
            token = int(self._decode(context, [token]).argmax())
            if self.ends_answer(token):
                break
            answer.append(token)
        return answer

    def _decode(self, context: Any, tokens: list[int]) -> Any:
        """The logits after the last of `tokens`."""
        batch = (self._api.llama_token * len(tokens))(*tokens)
        failed = self._api.llama_decode(context, self._api.llama_batch_get_one(batch, len(tokens)))
        size = self._api.llama_vocab_n_tokens(self._vocab)
        logits = np.ctypeslib.as_array(self._api.llama_get_logits_ith(context, -1), (size,))
        if failed or not np.isfinite(logits).all():
            raise EngineFailure("llama.cpp computes no finite logits from the file.", code="export_not_loadable")
        return logits


@contextmanager
def open_file(file: Path, *, vocab_only: bool = False) -> Iterator[LoadedFile]:
    """A GGUF file in llama.cpp; raises EngineFailure with llama.cpp's own reason if it refuses the file."""
    import llama_cpp

    with listening() as log:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = vocab_only
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        if not model:
            raise EngineFailure(f"llama.cpp does not load the file: {log.reason(file)}", code="export_not_loadable")
        try:
            yield LoadedFile(model)
        finally:
            llama_cpp.llama_model_free(model)

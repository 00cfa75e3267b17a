"""llama.cpp itself, as far as it belongs to the whole process: its log, and opening a model. It knows no request.

Only public functions of llama.h are called; llama-cpp-python's own `Llama` is not used.
"""

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp

from brie_core.errors import BadConfiguration

logger = logging.getLogger(__name__)
_ERROR_LEVEL = 4
_EVERY_LAYER = 999


class _Log:
    """Routes llama.cpp's log to `logging`, and remembers errors for whoever asked for them."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.asking = threading.Lock()
        # llama.cpp keeps the bare address: were this object collected, a later message would end the process
        self.callback = llama_cpp.llama_log_callback(self._receive)

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        line = text.decode(errors="replace").strip()
        if level == _ERROR_LEVEL:
            self.errors.append(line)
        if line:
            logger.debug(line)


@cache
def _log() -> _Log:
    llama_cpp.llama_backend_init()
    return _Log()


@contextmanager
def errors_told() -> Iterator[list[str]]:
    """What llama.cpp complains of meanwhile; one caller at a time, because the log is the whole process's."""
    log = _log()
    with log.asking:
        llama_cpp.llama_log_set(log.callback, ctypes.c_void_p())
        log.errors.clear()
        yield log.errors


def open_model(file: Path, *, vocab_only: bool = False, offload: bool = False) -> Any:
    """A `llama_model *`; raises BadConfiguration with llama.cpp's own reason."""
    with errors_told() as errors:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = _EVERY_LAYER if offload else 0
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        if not model:
            raise BadConfiguration(f"{file} cannot be served; llama.cpp says: {first_of(errors)}")
    return model


def first_of(errors: list[str]) -> str:
    """The first complaint, which names the cause; those after it tell who was disappointed."""
    return errors[0] if errors else "nothing."

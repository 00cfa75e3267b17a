"""Work that gives way: on a thread of its own, whose priority is low where a thread can have one. It knows no work."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_NICE = 10
_P = ParamSpec("_P")
_T = TypeVar("_T")


async def in_background(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Like `asyncio.to_thread`, for what reads, hashes or converts for long beside answers that stream.

    The thread ends with its work: nobody may raise a priority again. Threads that it starts are as modest.
    """
    thread = ThreadPoolExecutor(1, "brie-background", initializer=_step_back)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, lambda: function(*args, **kwargs))
    finally:
        thread.shutdown(wait=False)


def _step_back() -> None:
    """Linux alone gives each thread its own priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)

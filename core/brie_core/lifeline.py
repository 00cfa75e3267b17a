"""Ties a child process to its parent: when the parent is gone, however it went, so is the child."""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def die_with_parent(*, stdin_is_ours: bool = True) -> None:
    """Call first thing in a child whose stdin is a pipe from its parent.

    Linux kills the child with its parent, also behind an exec; everywhere, a thread waits on stdin, which ends when the
    parent does. A process that a launcher started may have another stdin: there only Linux helps.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if stdin_is_ours:
        threading.Thread(target=_wait_for_end_of_stdin, daemon=True, name="lifeline").start()


def _wait_for_end_of_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)

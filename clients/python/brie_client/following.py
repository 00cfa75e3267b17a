"""A job from now to its end. It knows statuses and time, and no resource."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from brie_core.wire import EvaluationObject, ExportObject

FINAL = frozenset({"succeeded", "failed", "cancelled"})
_JobT = TypeVar("_JobT", ExportObject, EvaluationObject)


def until_final(retrieve: Callable[[], _JobT], poll_seconds: float) -> Iterator[_JobT]:
    """The job each time it has moved, until it is finished."""
    last = None
    while last is None or last.status not in FINAL:
        current = retrieve()
        if current != last:
            yield current
        else:
            time.sleep(poll_seconds)
        last = current

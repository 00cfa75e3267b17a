"""Several answers as one: their pieces as they come. It knows order and tasks, not what a piece is."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")
_Met = tuple[int, _T] | Exception | None
"""A piece with its source's number, what a source raised, or the end of one."""


async def interleaved(sources: Sequence[AsyncIterator[_T]]) -> AsyncGenerator[tuple[int, _T], None]:
    """Every piece with the number of its source; raises what the first source to fail raises.

    Nobody waits for a source any longer once this has ended, however it does.
    """
    if len(sources) == 1:
        async for piece in sources[0]:
            yield 0, piece
        return
    met: asyncio.Queue[_Met[_T]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pour(number, source, met)) for number, source in enumerate(sources)]
    num_ended = 0
    try:
        while num_ended < len(sources):
            each = await met.get()
            if isinstance(each, Exception):
                raise each
            if each is None:
                num_ended += 1
            else:
                yield each
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _pour(number: int, source: AsyncIterator[_T], met: "asyncio.Queue[_Met[_T]]") -> None:
    try:
        async for piece in source:
            met.put_nowait((number, piece))
        met.put_nowait(None)
    except Exception as error:  # noqa: BLE001  # it is raised where the pieces are awaited
        met.put_nowait(error)


async def first_of_each(sources: Sequence[AsyncGenerator[_T, None]]) -> list[_T]:
    """The first piece of every source, or what the first to fail raises; then, and if given up, none goes on."""
    tasks = [asyncio.create_task(_first(source)) for source in sources]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for source in sources:
            await source.aclose()
        raise


async def _first(source: AsyncGenerator[_T, None]) -> _T:
    return await anext(source)

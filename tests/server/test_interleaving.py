"""Several answers as one: nothing is lost, nobody goes on behind anybody's back."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from brie_server.generation.interleaving import first_of_each, interleaved


class Source:
    """Numbers with pauses; fails after so many, and knows whether it was ended."""

    def __init__(self, count: int, pause: float = 0, fails: bool = False) -> None:
        self._count, self._pause, self._fails = count, pause, fails
        self.has_ended = False
        self.pieces = self._make()

    async def _make(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                await asyncio.sleep(self._pause)
                yield number
            if self._fails:
                raise ValueError("broken")
        finally:
            self.has_ended = True


@pytest.mark.parametrize("counts", [(5,), (3, 0, 7), (1, 1)])
async def test_all_pieces_come_each_sources_in_order(counts: tuple[int, ...]) -> None:
    sources = [Source(count, 0.001 * index) for index, count in enumerate(counts)]
    met = [each async for each in interleaved([source.pieces for source in sources])]
    for index, count in enumerate(counts):
        assert [piece for number, piece in met if number == index] == list(range(count))
    assert all(source.has_ended for source in sources)


async def test_one_that_fails_ends_all() -> None:
    sources = [Source(1000, 0.01), Source(2, fails=True)]
    with pytest.raises(ValueError, match="broken"):
        async for _ in interleaved([source.pieces for source in sources]):
            pass
    assert all(source.has_ended for source in sources)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("num_sources", [1, 3])
async def test_what_is_closed_waits_for_nobody_any_longer(num_sources: int) -> None:
    sources = [Source(1000, 0.001) for _ in range(num_sources)]
    whole = interleaved([source.pieces for source in sources])
    await anext(whole)
    await whole.aclose()
    for source in sources:
        await source.pieces.aclose()
    assert all(source.has_ended for source in sources)
    assert len(asyncio.all_tasks()) == 1


async def test_the_first_of_each_or_none() -> None:
    assert await first_of_each([Source(2).pieces, Source(3, 0.01).pieces]) == [0, 0]
    slow, broken = Source(2, 60), Source(0, fails=True)
    with pytest.raises(ValueError, match="broken"):
        await first_of_each([slow.pieces, broken.pieces])
    assert slow.has_ended
    asking = asyncio.create_task(first_of_each([(slow := Source(2, 60)).pieces, Source(1).pieces]))
    await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert slow.has_ended

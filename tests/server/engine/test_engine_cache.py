"""The cache's rectangle and its blocks: what is kept, what is wiped. No model."""

import psutil
import pytest
import torch

from brie_server.engine.torch.architecture import read_architecture
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.prefix import BLOCK
from brie_server.engine.torch.step import Keep, Move, Rectangle, Restore
from server.engine.tiny_models import TinyModel


@pytest.fixture
def cache(tiny_model: TinyModel) -> Cache:
    """Two rows of eight tokens, the first five of each written with the row's number plus one."""
    cache = Cache(read_architecture(tiny_model.base.config), torch.device("cpu"), torch.float32)
    cache.reshape(Rectangle(2, 8))
    for row in range(2):
        cache.reserve(row, 0, 5)
        for index in range(cache.num_layers):
            cache.layer(index)[:, row, :, :5] = row + 1
    return cache


def row(cache: Cache, index: int) -> list[float]:
    """The values of one row, where all heads agree."""
    keys, values = cache.layer(1)
    assert torch.equal(keys, values)
    assert torch.equal(values[index, 0], values[index, 1])
    column: list[float] = values[index, 0, :, 0].tolist()
    return column


def test_growing_keeps_what_is_there(cache: Cache) -> None:
    cache.reshape(Rectangle(3, 16))
    assert [row(cache, index) for index in range(3)] == [[1.0] * 5 + [0] * 11, [2.0] * 5 + [0] * 11, [0] * 16]


def test_shrinking_keeps_what_still_fits(cache: Cache) -> None:
    cache.reshape(Rectangle(1, 6))
    assert row(cache, 0) == [1.0] * 5 + [0]


def test_a_moved_row_arrives_whole(cache: Cache) -> None:
    cache.move(Move(source=1, target=0, num_tokens=5))
    assert row(cache, 0) == [2.0] * 5 + [0] * 3


def test_a_moved_row_brings_nothing_of_its_predecessor_along(cache: Cache) -> None:
    cache.move(Move(source=1, target=0, num_tokens=2))
    assert row(cache, 0) == [2.0, 2.0] + [0] * 6


def test_a_new_sequence_finds_its_row_empty(cache: Cache) -> None:
    cache.reserve(1, 0, 2)
    assert row(cache, 1) == [0] * 8
    assert row(cache, 0) == [1.0] * 5 + [0] * 3


def test_a_sequence_that_goes_on_finds_what_it_wrote(cache: Cache) -> None:
    cache.reserve(1, 5, 6)
    assert row(cache, 1) == [2.0] * 5 + [0] * 3


def test_a_row_is_wiped_even_after_it_was_moved_and_reshaped(cache: Cache) -> None:
    cache.reserve(0, 0, 2)
    cache.move(Move(source=1, target=0, num_tokens=5))
    cache.reshape(Rectangle(4, 16))
    cache.reserve(0, 0, 1)
    cache.reserve(1, 0, 1)
    assert row(cache, 0) == row(cache, 1) == [0] * 16


def test_released_memory_is_gone(cache: Cache) -> None:
    cache.release()
    assert cache.layer(1).numel() == 0
    cache.reshape(Rectangle(1, 4))
    assert row(cache, 0) == [0] * 4


def test_a_kept_block_begins_another_row_even_after_its_own_is_gone(cache: Cache) -> None:
    cache.reshape(Rectangle(2, 2 * BLOCK))
    cache.reserve(1, 0, BLOCK)
    for index in range(cache.num_layers):
        cache.layer(index)[:, 1, :, :BLOCK] = 7 + index
    cache.keep(Keep(row=1, start=0, block=5))
    cache.release()
    cache.reshape(Rectangle(2, 2 * BLOCK))
    cache.reserve(0, 0, 2 * BLOCK)
    for index in range(cache.num_layers):
        cache.layer(index)[:, 0] = 9
    cache.restore(Restore(row=0, blocks=(5,)))
    assert row(cache, 0) == [8.0] * BLOCK + [0] * BLOCK


def test_a_dropped_block_is_gone(cache: Cache) -> None:
    cache.reshape(Rectangle(2, BLOCK))
    for block in (5, 6):
        cache.keep(Keep(row=1, start=0, block=block))
    cache.drop(5)
    assert cache.num_blocks == 1
    cache.drop_all()
    assert cache.num_blocks == 0


def test_on_a_cpu_only_what_is_written_takes_memory(cache: Cache) -> None:
    before = psutil.Process().memory_info().rss
    cache.reshape(Rectangle(1024, 65_536))
    reserved = sum(cache.layer(index).nbytes for index in range(cache.num_layers))
    cache.reserve(1000, 0, 5)
    cache.layer(0)[:, 1000, :, :5] = 1
    assert cache.layer(0)[:, 1000, :, :7].sum() == 2 * 2 * 5 * cache.layer(0).shape[-1]
    assert psutil.Process().memory_info().rss - before < reserved / 100
    cache.reshape(Rectangle(1, 6))
    assert row(cache, 0) == [1.0] * 5 + [0]

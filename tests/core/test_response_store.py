"""Kept responses: whole, found again by their items, and bounded in age, number and bytes."""

from typing import Any

import pytest

from brie_core.errors import NotFound
from brie_core.store.database import Database
from brie_core.store.responses import LIFETIME_S, ResponseStore, new_item_id, new_response_id
from clocks import Clock


def response(**more: Any) -> dict[str, Any]:
    response_id = new_response_id()
    return {"id": response_id, "output": [{"id": new_item_id(response_id, "fc", 300)}]} | more


async def held(store: ResponseStore, saved: list[dict[str, Any]]) -> list[int]:
    """Which of them are still there."""
    found = []
    for number, each in enumerate(saved):
        try:
            await store.get(each["id"])
            found.append(number)
        except NotFound as error:
            assert error.code == "response_not_found"
    return found


async def test_what_was_saved_is_read_again(database: Database) -> None:
    store, said = ResponseStore(database), response(text="ä\n\ud800🧀")
    await store.save(said, [{"id": "msg_1"}])
    stored = await store.get(said["id"])
    assert (stored.response, stored.items) == (said, [{"id": "msg_1"}])
    await store.delete(said["id"])
    with pytest.raises(NotFound):
        await store.delete(said["id"])
    assert await held(store, [said]) == []


async def test_an_item_is_found_by_its_id(database: Database) -> None:
    store, said = ResponseStore(database), response()
    own = new_item_id(said["id"], "msg", 0)
    await store.save(said, [{"id": own, "text": "x"}, {"id": "of_the_caller"}])
    assert await store.item(own) == {"id": own, "text": "x"}
    assert await store.item(said["output"][0]["id"]) == said["output"][0]
    for unknown in (
        new_item_id(said["id"], "msg", 9),
        new_item_id(new_response_id(), "msg", 0),
        "of_the_caller",
        "",
        "x_",
    ):
        with pytest.raises(NotFound) as gone:
            await store.item(unknown)
        assert gone.value.code == "item_not_found"


async def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_response_id() for _ in range(100)]
    assert len({new_item_id(each, "msg", number) for each in ids for number in range(3)}) == 300


async def test_responses_expire(database: Database) -> None:
    clock = Clock()
    store, saved = ResponseStore(database, clock), [response() for _ in range(2)]
    await store.save(saved[0], [])
    clock.now += LIFETIME_S - 1
    assert await held(store, saved) == [0]
    clock.now += 1
    assert await held(store, saved) == []
    await store.save(saved[1], [])
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM responses")).scalar_one() == 1


async def test_the_oldest_make_room_for_the_next(database: Database) -> None:
    clock = Clock()
    store, saved = ResponseStore(database, clock, most_responses=3), [response() for _ in range(5)]
    for each in saved:
        await store.save(each, [])
        clock.now += 1
    assert await held(store, saved) == [2, 3, 4]


async def test_bytes_are_bounded_too(database: Database) -> None:
    clock = Clock()
    store, saved = ResponseStore(database, clock, most_bytes=10_000), [response(text="x" * 3_000) for _ in range(4)]
    for each in saved:
        await store.save(each, [])
        clock.now += 1
    assert await held(store, saved) == [1, 2, 3]
    large = response(text="x" * 8_000)
    await store.save(large, [])
    assert await held(store, [*saved, large]) == [4]

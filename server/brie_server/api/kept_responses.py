"""Responses that were kept: to read, to list what they were made from, to delete, and to go on from."""

from typing import Annotated, Literal

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.responses import new_item_id
from brie_core.wire import Deleted, Page
from brie_server.api.response_input import KeptItem, check_results, kept_item
from brie_server.api.services import Given, Services
from brie_server.schema.response_items import InputItem
from brie_server.schema.responses import Asking

Limit = Annotated[int, QueryParameter(ge=1, le=100)]
_PREFIXES = {"function_call": "fc", "function_call_output": "fco"}


@get("/responses/{response_id:str}", operation_id="getResponse")
async def retrieve_response(
    response_id: FromPath[str], services: Given, stream: FromQuery[bool | None] = None
) -> Response[dict[str, object]]:
    """One response, as it was answered."""
    if stream:
        raise InvalidRequest("Only responses made in the background are streamed again.", param="stream")
    stored = await services.responses.get(response_id)
    return Response(dict(stored.response))


@delete("/responses/{response_id:str}", status_code=200, operation_id="deleteResponse")
async def delete_response(response_id: FromPath[str], services: Given) -> Deleted:
    """Delete a response; those that went on from it stay whole."""
    await services.responses.delete(response_id)
    return Deleted(id=response_id, object="response")


@post("/responses/{response_id:str}/cancel", status_code=200, operation_id="cancelResponse")
async def cancel_response(response_id: FromPath[str], services: Given) -> None:
    """Always a 400: what can be found has ended."""
    await services.responses.get(response_id)
    raise InvalidRequest(
        "Only responses made in the background can be cancelled: close the connection of one that is not finished.",
        param="response_id",
    )


@get("/responses/{response_id:str}/input_items", operation_id="listInputItems")
async def list_input_items(
    response_id: FromPath[str],
    services: Given,
    after: FromQuery[str | None] = None,
    limit: Limit = 20,
    order: FromQuery[Literal["asc", "desc"]] = "desc",
) -> Page[KeptItem]:
    """A page of all that a response was made from, its predecessors' items too."""
    stored = await services.responses.get(response_id)
    items = list(stored.items if order == "asc" else reversed(stored.items))
    begin = 0 if after is None else 1 + _place(items, after)
    data = items[begin : begin + limit]
    return Page(
        data=data,
        has_more=len(items) > begin + limit,
        first_id=data[0]["id"] if data else "",
        last_id=data[-1]["id"] if data else "",
    )


async def items_of(body: Asking, response_id: str, services: Services) -> list[KeptItem]:
    """All that a response is made from: what its predecessor was, what that said, and the new items.

    Raises InvalidRequest for an unknown predecessor, NotFound for a reference to nothing.
    """
    items = await _items_before(body.previous_response_id, services)
    num_before = len(items)
    taken = {item["id"] for item in items}
    for number, item in enumerate(body.input):
        if item.type == "item_reference":
            items.append(await _referred(item.id or "", number, services))
        else:
            items.append(_kept(item, response_id, num_before + number, taken))
        taken.add(items[-1]["id"])
    check_results(items, num_before)
    return items


async def _items_before(response_id: str | None, services: Services) -> list[KeptItem]:
    if response_id is None:
        return []
    try:
        stored = await services.responses.get(response_id)
    except NotFound as error:
        raise InvalidRequest(
            f"Previous {error.message[0].lower()}{error.message[1:]}",
            param="previous_response_id",
            code="previous_response_not_found",
        ) from error
    return [*stored.items, *stored.response["output"]]


async def _referred(item_id: str, number: int, services: Services) -> KeptItem:
    try:
        return await services.responses.item(item_id)
    except NotFound as error:
        raise NotFound(error.message, param=f"input[{number}].id", code=error.code) from error


def _kept(item: InputItem, response_id: str, number: int, taken: set[str]) -> KeptItem:
    """Each id is there once, as lists go on behind one: of two the second gets another."""
    fresh_id = new_item_id(response_id, _PREFIXES.get(item.type, "msg"), number)
    return kept_item(item, fresh_id if item.id in taken else item.id or fresh_id)


def _place(items: list[KeptItem], item_id: str) -> int:
    for number, item in enumerate(items):
        if item["id"] == item_id:
            return number
    raise InvalidRequest(f"There is no item {item_id!r} in this response's input.", param="after")

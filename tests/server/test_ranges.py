"""Which part of a file a Range header asks for, and what is answered, with the conditions of RFC 9110."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from litestar import Litestar, Request, Response, get

from brie_core.errors import RangeNotSatisfiable
from brie_server.api.errors import EXCEPTION_HANDLERS
from brie_server.api.ranges import Part, asked_part, ranged_file
from uvicorn_threads import listening

DATA = bytes(range(256)) * 20_000
ETAG = '"' + "a" * 64 + '"'


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", Part(0, 100)),
        ("bytes=10-19", Part(10, 20)),
        ("bytes=99-99", Part(99, 100)),
        ("bytes=90-5000", Part(90, 100)),
        ("bytes=-30", Part(70, 100)),
        ("bytes=-3000", Part(0, 100)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=٣-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 40 + "-", None),
    ],
)
def test_the_part_that_is_asked_for(header: str | None, part: Part | None) -> None:
    assert asked_part(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=200-300", "bytes=-0"])
def test_a_part_that_is_not_there(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        asked_part(header, 100)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("ranges") / "file.bin"
    file.write_bytes(DATA)

    @get("/file")
    async def serve(request: Request[Any, Any, Any]) -> Response[bytes]:
        return ranged_file(file, file.name, "a" * 64, request.headers)

    with listening(Litestar([serve], exception_handlers=EXCEPTION_HANDLERS)) as address:
        yield f"{address}/file"


def _get(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_the_whole_file_says_that_parts_can_be_had(url: str) -> None:
    whole = _get(url)
    assert (whole.status_code, whole.content) == (200, DATA)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["etag"] == ETAG
    assert whole.headers["content-length"] == str(len(DATA))
    assert whole.headers["content-disposition"] == 'attachment; filename="file.bin"'


def test_a_part_is_a_206_with_its_place(url: str) -> None:
    part = _get(url, range="bytes=1000-2999999")
    assert (part.status_code, part.content) == (206, DATA[1000:3_000_000])
    assert part.headers["content-range"] == f"bytes 1000-2999999/{len(DATA)}"
    assert part.headers["content-length"] == "2999000"
    assert part.headers["etag"] == ETAG


def test_a_part_beyond_the_end_is_a_416_with_the_size(url: str) -> None:
    refused = _get(url, range=f"bytes={len(DATA)}-")
    assert refused.status_code == 416
    assert refused.headers["content-range"] == f"bytes */{len(DATA)}"
    assert refused.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    ("condition", "status"),
    [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Wed, 25 Nov 2026 10:00:00 GMT", 200)],
)
def test_a_part_of_another_file_is_the_whole_of_this_one(condition: str, status: int, url: str) -> None:
    answer = _get(url, range="bytes=5-", if_range=condition)
    assert answer.status_code == status
    assert answer.content == (DATA[5:] if status == 206 else DATA)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_none_match": ETAG}, 304),
        ({"if_none_match": f'"x", W/{ETAG}'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_match": '"x"'}, 412),
        ({"if_match": f'"x", {ETAG}'}, 200),
        ({"if_match": "*"}, 200),
    ],
)
def test_conditions_on_the_whole_file(headers: dict[str, str], status: int, url: str) -> None:
    answer = _get(url, **headers)
    assert answer.status_code == status
    assert answer.content == DATA if status == 200 else len(answer.content) < 400

"""One streamed HTTP request, timed event by event. It knows server-sent events, and of an API only how text is keyed.

It is its own small HTTP client because it shares the cores with the server that it times: an event is found in the
bytes, without a task switch, and nothing is parsed until the run is over. Measured against a server that only writes
events (32 streams, 2 cores AMD Milan): 47 microseconds of this process for each event, where httpx with a parsed event
takes 273. At 700 tokens/s that is 3 % of a core instead of 19.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_SOME_TEXT = re.compile(rb'"(?:text|content)": ?"(?!")')
_TIMEOUT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, and when."""

    status: int
    body: bytes
    begun: float
    arrivals: tuple[float, ...]
    """When each event that carried text was there, on the clock of `time.perf_counter`."""

    def events(self) -> Iterator[dict[str, Any]]:
        """The events, parsed; the closing `[DONE]` is none. Raises ValueError for one that is no JSON."""
        for line in self.body.split(b"\n"):
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                yield json.loads(line[5:])

    @property
    def is_whole(self) -> bool:
        """Whether the stream said that it was complete."""
        return b"data: [DONE]" in self.body

    @property
    def ttft(self) -> float:
        """Seconds to the first text, connecting included."""
        return self.arrivals[0] - self.begun

    @property
    def gaps(self) -> list[float]:
        """Seconds between one event and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]

    def text(self) -> str:
        """The answer."""
        choices = [event["choices"][0] for event in self.events() if event.get("choices")]
        return "".join(each.get("text") or each.get("delta", {}).get("content") or "" for each in choices)


class Exchange(asyncio.Protocol):
    """A request on its way; `arrivals` grows while it runs."""

    def __init__(self, request: bytes) -> None:
        self.begun = time.perf_counter()
        self.arrivals: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._received = bytearray()
        self._searched = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the time for every complete event with text."""
        now = time.perf_counter()
        self._received += data
        if (end := self._received.rfind(b"\n\n", self._searched)) >= 0:
            self.arrivals += [now] * len(_SOME_TEXT.findall(self._received, self._searched, end))
            self._searched = end

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closes the connection when it has answered, as the request asked it to."""
        if not self.ended.done():
            self.ended.set_exception(exc) if exc else self.ended.set_result(None)

    def reply(self) -> Reply:
        """The whole answer; raises ConnectionError if there is none."""
        head, separator, body = bytes(self._received).partition(b"\r\n\r\n")
        if not separator:
            raise ConnectionError("the connection was closed before an answer came")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join(_chunks(body))
        return Reply(int(head.split(b" ", 2)[1]), body, self.begun, tuple(self.arrivals))


def _chunks(body: bytes) -> Iterator[bytes]:
    """HTTP's chunks without their frames; what is missing of the last one is missing."""
    start = 0
    while (line_end := body.find(b"\r\n", start)) >= 0:
        size = int(body[start:line_end].split(b";")[0] or b"0", 16)
        yield body[line_end + 2 : line_end + 2 + size]
        start = line_end + size + 4


def to_bytes(url: str, path: str, fields: Mapping[str, Any], key: str = "none") -> bytes:
    """A POST of JSON to an API at `url`."""
    body = json.dumps(fields).encode()
    head = (
        f"POST {urlsplit(url).path.rstrip('/')}{path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Accept: text/event-stream\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def send(url: str, request: bytes) -> Reply:
    """Send a request of `to_bytes` and wait for its end; raises OSError or TimeoutError."""
    exchange = await begin(url, request)
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        await exchange.ended
    return exchange.reply()


async def begin(url: str, request: bytes) -> Exchange:
    """The same without waiting; raises OSError."""
    where = urlsplit(url)
    exchange = Exchange(request)
    await asyncio.get_running_loop().create_connection(lambda: exchange, where.hostname or "", where.port or 80)
    return exchange

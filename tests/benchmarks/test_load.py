"""The benchmarks' client counts what it got, and what it did not get. It knows no engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from brie_processes import BrieProcesses
from exchange import Exchange, Reply
from load import Load, figures, request_body, run_load

_TEXT = 'data: {"choices":[{"text":"x"}]}\n\n'
_USAGE = 'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'
_DONE = "data: [DONE]\n\n"


@contextlib.asynccontextmanager
async def answering(answer: Callable[[int], bytes]) -> AsyncIterator[str]:
    """A server that gives its n-th request, whatever it says, the n-th answer and closes the connection."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        number, count = count, count + 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(number))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def streamed(*events: str) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    frames = (f"{len(event.encode()):x}\r\n{event}\r\n".encode() for event in events)
    return head + b"".join(frames) + b"0\r\n\r\n"


def load(url: str, **changes: object) -> Load:
    given = Load(url=url, models=("m",), requests=4, concurrency=2, max_tokens=8)
    return replace(given, **changes)  # type: ignore[arg-type]  # a test's own changes


async def test_every_way_to_fail_is_counted_and_named() -> None:
    answers = [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull",
        b"",
        streamed(_TEXT, 'data: {"error":{"message":"it broke"}}\n\n'),
        streamed(_TEXT, _USAGE),
        streamed(_TEXT, _DONE),
        streamed("data: {broken\n\n", _USAGE, _DONE),
        b"not HTTP at all\r\n\r\n",
        streamed(_TEXT, _TEXT, _USAGE, _DONE),
    ]
    async with answering(lambda number: answers[number]) as url:
        found = await run_load(load(url, requests=8, concurrency=1))
    assert (found.answered, found.tokens, len(found.failures)) == (1, 3, 7)
    for said, expected in zip(
        found.failures, ["503: full", "closed", "it broke", "early", "early", "JSON"], strict=False
    ):
        assert expected in said


async def test_a_server_that_is_not_there_fails_every_request() -> None:
    async with answering(lambda _number: b"") as url:
        pass
    found = await run_load(load(url))
    assert (found.answered, len(found.failures), found.tokens_per_s, found.ttft_p50) == (0, 4, 0, None)


async def test_a_real_brie_answers_all(brie: BrieProcesses) -> None:
    found = await run_load(load(brie.url, models=("tiny",), requests=5, concurrency=3))
    assert (found.answered, found.failures) == (5, ())
    assert 0 < found.tokens <= 5 * 8
    assert found.ttft_p50 is not None
    assert found.ttft_p99 is not None
    assert 0 < found.ttft_p50 <= found.ttft_p99


async def test_a_chat_is_answered_too(brie: BrieProcesses) -> None:
    found = await run_load(load(brie.url, models=("tiny",), chat=True, requests=1, concurrency=1))
    assert (found.answered, found.failures) == (1, ())


async def test_an_event_counts_once_however_the_bytes_are_cut() -> None:
    exchange = Exchange(b"")
    role = 'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    quoting = 'data: {"choices":[{"delta":{"content":"\\"text\\":\\"y"}}]}\n\n'
    for byte in streamed(role, quoting, _TEXT, _USAGE, _DONE):
        exchange.data_received(bytes([byte]))
    reply = exchange.reply()
    assert len(reply.arrivals) == 2
    assert reply.text() == '"text":"yx'
    assert reply.is_whole


def test_percentiles_and_rate() -> None:
    body = (_TEXT + _USAGE + _DONE).encode()
    replies = [Reply(200, body, 0.0, (0.1 * number, 0.1 * number + 0.02)) for number in range(1, 11)]
    found = figures(replies, seconds=2.0)
    assert (found.tokens_per_s, found.ttft_p50, found.ttft_p99, found.itl_p50) == (15.0, 600.0, 1000.0, 20.0)


def test_models_take_turns_and_llama_adapters_are_chosen_by_number() -> None:
    named = load("http://x", models=("a", "b"))
    assert [request_body(named, number)["model"] for number in range(3)] == ["a", "b", "a"]
    assert request_body(replace(named, lora_ids=3), 4)["lora"] == [
        {"id": 0, "scale": 0.0},
        {"id": 1, "scale": 1.0},
        {"id": 2, "scale": 0.0},
    ]

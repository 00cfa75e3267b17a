"""A wire between a client and a server that can be cut, or go silent. It knows bytes."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Literal

State = Literal["through", "cut", "silent"]


class Wire:
    """Listens on loopback in a thread of its own and passes on to `port`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._state: State = "through"
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def be(self, state: State) -> None:
        """`cut` ends all connections and refuses new ones; `silent` takes bytes and passes none on."""
        self._do(self._be(state))

    def close(self) -> None:
        """The end of it."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, part: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(part, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()  # on its own loop's thread: it counts connections that end meanwhile
        await self._be("cut")

    async def _be(self, state: State) -> None:
        was, self._state = self._state, state
        if state == "cut" or was == "silent":  # what was swallowed is lost, and so is its connection
            for writer in list(self._open):
                writer.transport.abort()
            await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state == "cut":
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            for each in (writer, far_writer):
                each.transport.abort()
                self._open.discard(each)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._state == "through":
                    writer.write(data)
                    await writer.drain()
        writer.close()

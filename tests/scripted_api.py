"""An OpenAI-compatible server that says what a test tells it to, and remembers what it was asked. It knows no model."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """An answer as it goes over the wire."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def chat(text: str, *, finish: str = "stop", version: str | None = "base", model: str = "scripted") -> Said:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    headers = {} if version is None else {"brie-adapter-version": version}
    return Said({"model": model, "choices": [choice], "usage": {"completion_tokens": len(text.split())}}, 200, headers)


class ScriptedApi:
    """Answers each POST by `says(path, body)`; raise ConnectionError there to break off."""

    def __init__(self, says: Callable[[str, Body], Said]) -> None:
        self.says = says
        self.asked: list[tuple[str, Body]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                api.asked.append((self.path, body))
                try:
                    said = api.says(self.path, body)
                except ConnectionError:
                    self.close_connection = True
                    return
                sent = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                try:
                    self.send_response(said.status)
                    for name, value in {**said.headers, "content-length": str(len(sent))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(sent)
                except ConnectionError:  # the asker was killed meanwhile
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

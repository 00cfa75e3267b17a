"""An application on a loopback port, in a thread of this process, for clients that are processes. It knows no route."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from litestar import Litestar


@contextmanager
def listening(app: Litestar) -> Iterator[str]:
    """The application's root; it is ready on entry, and has ended on exit."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    port = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([port],), daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the application did not start; its log says why")
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)

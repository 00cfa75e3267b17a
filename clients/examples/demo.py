"""`make demo`: start a Brie of its own on a free port with an empty home, walk the whole loop, tell, and stop it."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from openai import OpenAI

from walk import tell, walk

EPOCHS = 1


def main() -> None:
    """Leaves the GGUF file behind in the current folder, and nothing else."""
    home = Path(tempfile.mkdtemp(prefix="brie-demo-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
    environment = inherited | {"BRIE_HOME": str(home), "BRIE_PORT": str(port)}
    server = subprocess.Popen([sys.executable, "-m", "brie_cli", "serve"], env=environment)
    try:
        started = time.monotonic()
        wait_until_ready(server, url)
        print(f"Brie is ready after {time.monotonic() - started:.0f} s.")
        print(tell(walk(OpenAI(base_url=f"{url}/v1", api_key="none"), Path.cwd(), EPOCHS, "q8_0")))
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(home, ignore_errors=True)


def wait_until_ready(server: subprocess.Popen[bytes], url: str) -> None:
    """Poll /health/ready; raises RuntimeError if the server ends instead."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health/ready", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("the server did not start")


if __name__ == "__main__":
    main()

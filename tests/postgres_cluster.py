"""A throw-away PostgreSQL on loopback, to be stopped, frozen and started again. It knows no table.

Its language is Danish, where "aa" sorts behind "z": whoever sorts ids by anything but their characters is found out.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

_FOLDERS = (
    *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
    *Path("/opt/homebrew/opt").glob("postgresql*/bin"),
)
_START_SECONDS = 30.0


class NoPostgres(Exception):
    """There is no server program here."""


class PostgresCluster:
    """One server with as many databases as are asked for; an ordinary user runs it, as it refuses root."""

    def __init__(self) -> None:
        self._bin = _programs()
        self.folder = Path(tempfile.mkdtemp(prefix="brie-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self.port = _free_port()
        self._numbers = count(1)
        self._server: subprocess.Popen[bytes] | None = None
        language = ("--locale-provider=icu", "--icu-locale=da", "--locale=C.UTF-8", "--encoding=UTF8")
        made = ("-D", str(self.folder / "data"), "-A", "trust", "-U", "brie", "--no-sync")
        try:
            self._run("initdb", *made, *language)
        except RuntimeError:  # older than 15, or built without ICU
            self._run("initdb", *made, "--locale=C.UTF-8", "--encoding=UTF8")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
        }
        given = [f"-c{name}={value}" for name, value in options.items()]
        command = [*self._as_user, str(self._bin / "postgres"), "-D", str(self.folder / "data"), *given]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """All connections are cut; what was committed is kept."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(30)
            self._server = None

    def close(self) -> None:
        """Stop it at once, and take it away."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self, template: str = "template1") -> str:
        """Make a database; returns its name."""
        name = f"brie_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def url(self, database: str, port: int | None = None) -> str:
        """As people write it."""
        return f"postgresql://brie@127.0.0.1:{port or self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> str:
        """What psql prints, bare."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "brie", "-d", database)
        return self._run("psql", *where, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement)

    def _answers(self) -> bool:
        asked = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> str:
        command = [*self._as_user, str(self._bin / program), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")
        return done.stdout


def _programs() -> Path:
    """The folder of the newest server; raises NoPostgres."""
    on_path = shutil.which("postgres")
    folders = [*_FOLDERS, *([Path(on_path).resolve().parent] if on_path else [])]
    for folder in folders:
        if all((folder / name).is_file() for name in ("postgres", "initdb", "psql", "pg_isready")):
            return folder
    raise NoPostgres("no PostgreSQL server is installed here: apt-get install postgresql, or brew install postgresql")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

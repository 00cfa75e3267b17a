"""How PostgreSQL is reached: addresses as people write them, deadlines, and which failures pass. It knows no table.

The driver is asyncpg, which reads libpq's addresses itself and has a deadline of its own for every command: a server
that says nothing any more is noticed without the help of the network.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from brie_core.errors import BadConfiguration, DatabaseUnavailable

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
COMMAND_SECONDS = 8.0
"""After which a statement is given up; none here takes more than milliseconds unless it waits for another's."""
_CONNECT_SECONDS = 5.0
_PASSING = ("08", "53", "57", "58", "40", "55", "25")
"""Classes of SQLSTATE: no connection, no resources, shut down, the system's, rolled back, locked, read-only."""
_OF_LIBPQ = frozenset(
    {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "gssencmode"}
)
"""What libpq alone understands; here the deadlines do it."""
_SESSION = {
    "application_name": "brie",
    # whoever is frozen or cut off in a transaction must not hold its locks for ever
    "idle_in_transaction_session_timeout": "15000",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is and how to ask for it."""

    dsn: str
    connect_seconds: float
    settings: dict[str, str]
    """Of each session, besides those that the address itself names."""


def is_postgresql(url: str) -> bool:
    """Whether this is an address of PostgreSQL; raises BadConfiguration for one by another driver."""
    scheme = url.partition("://")[0]
    if scheme.startswith("postgres") and scheme not in SCHEMES:
        raise BadConfiguration(f"BRIE_DATABASE_URL is a {scheme}:// URL: write postgresql:// (the driver is asyncpg).")
    return scheme in SCHEMES


def read_address(url: str) -> Address:
    """A libpq address for asyncpg; raises BadConfiguration."""
    try:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        seconds = float(given.pop("connect_timeout", _CONNECT_SECONDS)) or _CONNECT_SECONDS
    except ValueError as error:
        raise BadConfiguration(f"BRIE_DATABASE_URL cannot be read: {error}") from error
    if given.pop("channel_binding", "prefer") == "require":
        raise BadConfiguration("BRIE_DATABASE_URL has channel_binding=require, which asyncpg cannot: leave it out.")
    query = urlencode({name: value for name, value in given.items() if name not in _OF_LIBPQ})
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, query, ""))
    return Address(dsn, seconds, {name: value for name, value in _SESSION.items() if name not in given})


def connector(url: str, command_seconds: float | None) -> Callable[[], Awaitable[Any]]:
    """What opens one connection; raises BadConfiguration at once if the driver is missing."""
    try:
        import asyncpg
    except ImportError as error:
        raise BadConfiguration(
            "BRIE_DATABASE_URL is PostgreSQL's, but its driver is not installed: pip install 'brie-llm[postgres]'."
        ) from error
    address = read_address(url)

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                address.dsn,
                timeout=address.connect_seconds,
                command_timeout=command_seconds,
                server_settings=address.settings,
            )
        except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
            raise BadConfiguration(f"BRIE_DATABASE_URL cannot be used: {error}") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable(f"The database cannot be reached: {_words(error)}") from error

    return connect


def is_passing(error: BaseException) -> bool:
    """Whether a driver's error says that the database is away, or only busy: the same may succeed later."""
    import asyncpg

    found: BaseException | None = error
    while found is not None:  # SQLAlchemy's adapter wraps the driver's own
        if isinstance(found, OSError):
            return True
        if isinstance(found, asyncpg.InterfaceError) and not isinstance(found, ValueError):  # that is a value of ours
            return True
        if isinstance(found, asyncpg.PostgresError) and str(found.sqlstate).startswith(_PASSING):
            return True
        found = found.__cause__
    return False


def refuses_us(error: BaseException) -> bool:
    """Whether the server is there but knows no such user, password or database: waiting will not help."""
    return str(getattr(error.__cause__, "sqlstate", "")).startswith(("28", "3D"))


def _words(error: BaseException) -> str:
    return "it does not answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__

"""One frozen settings object per process, read from BRIE_* once. It knows names and forms, not their use."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_core.errors import BadConfiguration

DEFAULT_MODEL = "smollm2-135m-instruct"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EVALUATION_KEY = "BRIE_EVALUATION_KEY"
"""How the names of variables begin that hold keys of other servers, for evaluations: values that are no settings."""
OWN_EVALUATION_KEY = f"{EVALUATION_KEY}_OF_THIS_SERVER"
"""Where an evaluation finds a key of this very API; nobody else may ask for it by name."""
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
_DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
_ENGINES = ("torch", "llamacpp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything a Brie process is told from outside."""

    home: Path
    """BRIE_HOME: the folder that holds the database, models, files, adapters, jobs and exports."""
    host: str = "127.0.0.1"
    """BRIE_HOST: the address the API binds; anything but loopback needs BRIE_API_KEYS."""
    port: int = 8000
    """BRIE_PORT: the API's TCP port."""
    model: str = DEFAULT_MODEL
    """BRIE_MODEL: the default model's name, a local Hugging Face folder, or a hub id; for llamacpp a GGUF file."""
    device: str = "auto"
    """BRIE_DEVICE: auto, cpu, cuda, cuda:1 and so on, or mps."""
    dtype: str = "auto"
    """BRIE_DTYPE: auto, float32, bfloat16 or float16; int8 for the weights alone, on a CPU."""
    database_url: str = ""
    """BRIE_DATABASE_URL: PostgreSQL's, as libpq reads it, for several hosts; by default SQLite in BRIE_HOME."""
    api_keys: tuple[str, ...] = ()
    """BRIE_API_KEYS: comma-separated bearer keys; none means no authentication."""
    engine: str = "torch"
    """BRIE_ENGINE: torch, or llamacpp for a GGUF file."""
    url: str = ""
    """BRIE_URL: where clients find the API; by default http://BRIE_HOST:BRIE_PORT."""
    min_examples: int = 1
    """BRIE_MIN_EXAMPLES: training examples without which no job begins."""
    adapter_roots: tuple[Path, ...] = ()
    """BRIE_ADAPTER_ROOTS: folders besides BRIE_HOME from which an adapter may be imported, separated by ':'."""

    def __post_init__(self) -> None:
        if _DEVICE.fullmatch(self.device) is None:
            raise BadConfiguration(
                f"BRIE_DEVICE={self.device} is not one of auto, cpu, cuda, cuda:0, cuda:1 and so on, mps."
            )
        _check_choice("BRIE_DTYPE", self.dtype, _DTYPES)
        _check_choice("BRIE_ENGINE", self.engine, _ENGINES)
        if self.host not in LOOPBACK and not self.api_keys:
            raise BadConfiguration(
                f"BRIE_HOST={self.host} would serve your data to the network without a key: "
                "set BRIE_API_KEYS, or bind 127.0.0.1."
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read BRIE_* from `environment`; an unknown BRIE_ name raises BadConfiguration, as does a bad value."""
        given = {name: value for name, value in environment.items() if name.startswith("BRIE_") and value != ""}
        given = {name: value for name, value in given.items() if not name.startswith(EVALUATION_KEY)}
        if unknown := sorted(given.keys() - _READERS.keys()):
            raise BadConfiguration(f"Unknown setting {', '.join(unknown)}: the settings are {', '.join(_READERS)}.")
        values = {name.removeprefix("BRIE_").lower(): _READERS[name](value) for name, value in given.items()}
        home = values.pop("home", Path("~/.brie").expanduser())
        return cls(home=home, **values)

    @property
    def base_url(self) -> str:
        """The API's root as a client on this machine sees it."""
        return self.url or self.own_url

    @property
    def own_url(self) -> str:
        """The API that runs with these settings, as this machine reaches it."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def device_type(self) -> str:
        """The device as a process that sees only its own calls it."""
        return self.device.partition(":")[0]

    @property
    def sqlalchemy_url(self) -> str:
        """The database to open."""
        return self.database_url or f"sqlite+aiosqlite:///{self.home / 'brie.sqlite3'}"


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadConfiguration(f"{name}={value} is not one of {', '.join(allowed)}.")


def _port(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise BadConfiguration(f"BRIE_PORT={value} is not a port: give a number from 1 to 65535.")
    return int(value)


def _examples(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) <= 10**6:
        raise BadConfiguration(f"BRIE_MIN_EXAMPLES={value} is not a number from 1 to 1000000.")
    return int(value)


def _folder(value: str) -> Path:
    return Path(value).expanduser().absolute()


def _folders(value: str) -> tuple[Path, ...]:
    return tuple(_folder(part) for part in value.split(":") if part)


def _keys(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


_READERS: dict[str, Callable[[str], Any]] = {
    "BRIE_HOME": _folder,
    "BRIE_HOST": str,
    "BRIE_PORT": _port,
    "BRIE_MODEL": str,
    "BRIE_DEVICE": str,
    "BRIE_DTYPE": str,
    "BRIE_DATABASE_URL": str,
    "BRIE_API_KEYS": _keys,
    "BRIE_ENGINE": str,
    "BRIE_URL": str,
    "BRIE_MIN_EXAMPLES": _examples,
    "BRIE_ADAPTER_ROOTS": _folders,
}

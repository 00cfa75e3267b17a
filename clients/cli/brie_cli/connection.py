"""Where the API is and with which key, from BRIE_URL, BRIE_HOST, BRIE_PORT and BRIE_API_KEYS."""

import os
import sys

from brie_client import Brie
from brie_core.errors import BadConfiguration
from brie_core.settings import Settings


def settings() -> Settings:
    """The settings of this shell; one that cannot be used ends the process with its text."""
    try:
        return Settings.from_environment(os.environ)
    except BadConfiguration as error:
        sys.exit(f"brie: {error.message}")


def connect() -> Brie:
    """A client of the API that the settings point at."""
    found = settings()
    key = found.api_keys[0] if found.api_keys else "brie"
    return Brie(base_url=f"{found.base_url}/v1", api_key=key)

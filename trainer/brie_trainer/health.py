"""`python -m brie_trainer.health`: is a worker of this host known to live? It asks the register, and no process.

A worker that hangs, or that its database cannot hear, falls silent there; so a status of 0 says more than that a
process exists. Containers have a host's name of their own each.
"""

import asyncio
import os
import socket
import sys

from brie_core.errors import BrieError
from brie_core.settings import Settings
from brie_core.store.database import Database, create_engine
from brie_core.store.workers import ALIVE_SECONDS, WorkerStore


async def find_fault(settings: Settings) -> str | None:
    """Why it must be taken for dead, in one line; None if one was seen lately."""
    host = socket.gethostname()[:64]
    try:
        database = Database(create_engine(settings.sqlalchemy_url))
        try:
            seen = await WorkerStore(database).list()
        finally:
            await database.aclose()
    except BrieError as error:
        return error.message
    if any(each.is_alive for each in seen if each.worker.host == host):
        return None
    return f"no worker on {host} was seen in the last {ALIVE_SECONDS:.0f} s"


def main() -> None:
    """End with status 0, or with 1 and the fault on stderr."""
    try:
        fault = asyncio.run(find_fault(Settings.from_environment(os.environ)))
    except BrieError as error:
        fault = error.message
    if fault is not None:
        sys.exit(f"brie: {fault}")


if __name__ == "__main__":
    main()

"""Ids the server makes and names people choose. Only ids are ever used as paths; names never are."""

import re
import secrets
import string
import time

from brie_core.errors import InvalidRequest

_ALPHABET = string.ascii_lowercase + string.digits
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_id(prefix: str, separator: str = "-") -> str:
    """A fresh id such as `ftjob-0mcz1k8a4f...`: time first, so ids sort by creation, then 77 random bits."""
    stamp = _base36(time.time_ns() // 1_000_000).rjust(9, "0")
    return f"{prefix}{separator}{stamp}{''.join(secrets.choice(_ALPHABET) for _ in range(15))}"


def check_name(name: str, param: str) -> str:
    """A name for an adapter, as a person may choose it; raises InvalidRequest naming `param`."""
    if _NAME.fullmatch(name) is None or ".." in name:
        raise InvalidRequest(
            f"{name!r} cannot be used as a name: take 1 to 64 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit, without '..'.",
            param=param,
            code="invalid_name",
        )
    return name


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = (string.digits + string.ascii_lowercase)[rest] + digits
    return digits

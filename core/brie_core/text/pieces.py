"""The bytes that one token stands for, from how a vocabulary spells it. It knows no tokenizer and no text around it."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""How sentencepiece spells a space."""


def spelling_of(decoder: Mapping[str, Any] | None) -> Callable[[str], bytes]:
    """What turns an entry of the vocabulary into bytes, by the `decoder` of a tokenizer.json."""
    kinds = {step.get("type") for step in _steps(decoder)}
    if "ByteLevel" in kinds:
        return _from_byte_level
    return _from_sentencepiece if kinds & {"ByteFallback", "Metaspace", "Replace"} else str.encode


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return [] if decoder is None else list(decoder.get("decoders", [decoder]))


def _from_byte_level(spelled: str) -> bytes:
    bytes_of = _byte_of_letter()
    return b"".join(bytes((bytes_of[letter],)) if letter in bytes_of else letter.encode() for letter in spelled)


def _from_sentencepiece(spelled: str) -> bytes:
    if found := _BYTE.fullmatch(spelled):
        return bytes.fromhex(found[1])
    return spelled.replace(_SPACE, " ").encode()


@cache
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print as Latin-1 stand for themselves, the others for the letters from 256 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}

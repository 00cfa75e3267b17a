"""Reads a child's events.jsonl as it grows. It knows lines and offsets, not what an event means."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One whole line."""

    event: dict[str, Any]
    end: int
    """Offset of the byte behind it: where reading goes on."""


def read_lines(file: Path, offset: int) -> list[Line]:
    """The whole lines from `offset` on; a line still being written, or torn by a kill, is left for later."""
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(offset)
        lines = []
        for raw in stream:
            if not raw.endswith(b"\n"):
                break
            offset += len(raw)
            lines.append(Line(json.loads(raw), offset))
        return lines

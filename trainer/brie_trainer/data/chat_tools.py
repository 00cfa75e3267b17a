"""The functions that a row's assistant may call, checked as the API checks them. It knows no message."""

import json
import re
from collections.abc import Mapping
from typing import Any

from brie_core.text.chat_template import Tool
from brie_core.text.messages import template_tool

_MOST = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def tools_of(row: Mapping[str, Any]) -> tuple[Tool, ...] | None:
    """`tools`, or the older `functions`, as a template is given them; None where there are none."""
    name = "tools" if row.get("tools") else "functions"
    given = row.get(name) or []
    if not isinstance(given, list):
        raise ValueError(f"has {name!r} that are not a list.")
    if name == "functions":
        given = [{"type": "function", "function": each} for each in given]
    if len(given) > _MOST:
        raise ValueError(f"has {len(given)} tools; at most {_MOST} can be offered.")
    tools = tuple(_tool(tool, number) for number, tool in enumerate(given))
    if len({tool["function"]["name"] for tool in tools}) < len(tools):
        raise ValueError("has two tools of the same name.")
    return tools or None


def _tool(tool: Any, number: int) -> Tool:
    where = f"has a fault in tools[{number}]:"
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise ValueError(
            f'{where} it must be {{"type": "function", "function": {{"name": "...", "parameters": ...}}}}.'
        )
    name, description, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where} its name must be 1 to 64 of a-z, A-Z, 0-9, '_' and '-'.")
    if not isinstance(description, str | None) or not isinstance(parameters, dict | None):
        raise ValueError(f"{where} its description must be a string, and its parameters an object.")
    told = template_tool(name, description, parameters)
    try:
        json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} JSON cannot hold it: {error}") from error
    return told

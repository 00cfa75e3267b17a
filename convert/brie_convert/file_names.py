"""A served model's name as the name of a file or folder. It knows names only."""

import re

_LONGEST = 150


def safe_name(model: str) -> str:
    """A name that every file system takes: `ft:smollm2:brie:x` is ft-smollm2-brie-x."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:_LONGEST] or "model"

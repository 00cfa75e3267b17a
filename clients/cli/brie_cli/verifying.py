"""`brie verify`: whether an exported file can be trusted. It knows the converter's command, not how it looks."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def verify(
    path: Annotated[Path, typer.Argument(help="A GGUF or safetensors file, or the folder of an export.", exists=True)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per file instead of words.")] = False,
) -> None:
    """Check PATH: sha256 by its manifest, header, and whether llama.cpp loads it and answers; exits 1 if it fails."""
    options = ["--json"] if as_json else []
    os.execv(sys.executable, [sys.executable, "-m", "brie_convert.inspect", *options, "--", str(path)])

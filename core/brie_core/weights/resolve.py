"""BRIE_MODEL to a folder: the default model, a local folder, or a hub id. It knows places, not weights."""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

from brie_core.errors import BadConfiguration
from brie_core.settings import DEFAULT_MODEL, Settings
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.default_model import import_default_model

_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]


def quiet_hub(environment: MutableMapping[str, str], platform: str = sys.platform) -> None:
    """Turn telemetry off, and on macOS the Xet transfer that stalls downloads; call before importing a hub library."""
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment["DO_NOT_TRACK"] = "1"
    environment["WANDB_ANONYMOUS"] = "never"
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    if platform == "darwin":
        environment["HF_HUB_DISABLE_XET"] = "1"


def resolve_base_model(settings: Settings) -> BaseModel:
    """The base model the settings name, imported or downloaded if need be; raises BadConfiguration."""
    models = settings.home / "models"
    digests = models / "digests.json"
    if settings.model == DEFAULT_MODEL:
        return open_base_model(DEFAULT_MODEL, import_default_model(models, settings.home / "tmp"), digests)
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        return open_base_model(folder.resolve().name, folder.resolve(), digests)
    return open_base_model(settings.model, _from_hub(settings.model), digests)


def _from_hub(repository: str) -> Path:
    quiet_hub(os.environ)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(repository, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BadConfiguration(
            f"BRIE_MODEL={repository} is neither the default model ({DEFAULT_MODEL}), nor a local folder, nor a model "
            f"that could be had from the hub ({type(error).__name__}: {error})."
        ) from error

"""BRIE_MODEL to a folder: the default model, a local folder, or a hub id. It knows places, not weights."""

import os
from pathlib import Path

from brie_core.errors import BadConfiguration
from brie_core.libraries import prepare_libraries
from brie_core.settings import DEFAULT_MODEL, Settings
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.default_model import import_default_model

_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]


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
    prepare_libraries(os.environ)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(repository, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise BadConfiguration(
            f"BRIE_MODEL={repository} is neither the default model ({DEFAULT_MODEL}), nor a local folder, nor a model "
            f"that could be had from the hub ({type(error).__name__}: {error})."
        ) from error

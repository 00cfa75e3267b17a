"""BRIE_MODEL to a model: the default one, a local folder, a hub id, or a GGUF file. It knows places, not weights."""

import os
from pathlib import Path

from brie_core.errors import BadConfiguration
from brie_core.libraries import prepare_libraries
from brie_core.settings import DEFAULT_MODEL, Settings
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.default_model import import_default_model
from brie_core.weights.gguf_model import GgufModel, ServedModel, open_gguf_model

_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]


def resolve_base_model(settings: Settings) -> BaseModel:
    """The base model the settings name, imported or downloaded if need be; raises BadConfiguration."""
    models = settings.home / "models"
    digests = models / "digests.json"
    if settings.model == DEFAULT_MODEL:
        return open_base_model(DEFAULT_MODEL, import_default_model(models, settings.home / "tmp"), digests)
    folder = Path(settings.model).expanduser()
    if folder.is_file():
        raise BadConfiguration(
            f"BRIE_MODEL={settings.model} is a file. A GGUF file is served with BRIE_ENGINE=llamacpp, and cannot be "
            "trained; for everything else give a Hugging Face folder."
        )
    if folder.is_dir():
        return open_base_model(folder.resolve().name, folder.resolve(), digests)
    return open_base_model(settings.model, _from_hub(settings.model), digests)


def resolve_served_model(settings: Settings) -> ServedModel:
    """What the API answers from: a GGUF file for the llama.cpp engine, else the base model. Raises BadConfiguration."""
    return _gguf_model(settings) if settings.engine == "llamacpp" else resolve_base_model(settings)


def _gguf_model(settings: Settings) -> GgufModel:
    file, exported = Path(settings.model).expanduser(), []
    if Path(settings.model).name == settings.model:
        exported = sorted((settings.home / "exports" / settings.model).glob("*.gguf"))
    if not file.is_file() and len(exported) != 1:
        raise BadConfiguration(
            f"BRIE_ENGINE=llamacpp serves a GGUF file, and BRIE_MODEL={settings.model} is neither one nor the id of an "
            "export in this BRIE_HOME: set BRIE_MODEL to the path of a file.gguf."
        )
    found = file if file.is_file() else exported[0]
    return open_gguf_model(found.absolute(), settings.home / "models" / "digests.json")


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

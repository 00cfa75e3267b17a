"""Makes the engine that the settings name, and what reads its model's text. It alone knows which engines exist, and
imports only the one it makes."""

from brie_core.errors import BadConfiguration
from brie_core.settings import Settings
from brie_core.text.codec import TextCodec
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_model import GgufModel, ServedModel
from brie_server.engine.base import Engine


def create_engine(settings: Settings, base: ServedModel) -> Engine:
    """An engine with its model loaded; takes seconds, so call it on a worker thread. Raises BadConfiguration."""
    if settings.engine == "torch" and isinstance(base, BaseModel):
        return _torch_engine(settings, base)
    if settings.engine == "llamacpp" and isinstance(base, GgufModel):
        return _llamacpp_engine(settings, base)
    raise BadConfiguration(f"BRIE_ENGINE={settings.engine} cannot serve {base.id}.")


def open_codec(base: ServedModel) -> TextCodec:
    """The tokenizer and chat template of a model; raises BadConfiguration."""
    if isinstance(base, BaseModel):
        return Tokenizer(base.folder)
    _require_llama_cpp()
    from brie_server.engine.llamacpp.codec import GgufCodec

    return GgufCodec(base)


def _torch_engine(settings: Settings, base: BaseModel) -> Engine:
    from brie_server.engine.torch.device import choose_device, choose_dtype, limits_for
    from brie_server.engine.torch.engine import TorchEngine

    device = choose_device(settings.device_type)
    return TorchEngine(base, device, choose_dtype(settings.dtype, device), limits_for(device))


def _llamacpp_engine(settings: Settings, base: GgufModel) -> Engine:
    _require_llama_cpp()
    from brie_server.engine.llamacpp.engine import LlamaCppEngine, Options
    from brie_server.engine.llamacpp.scheduler import Limits

    options = Options(device=settings.device_type, dtype=settings.dtype, tmp=settings.home / "tmp")
    return LlamaCppEngine(base, options, Limits())


def _require_llama_cpp() -> None:
    try:
        import llama_cpp  # noqa: F401
    except ImportError as error:
        raise BadConfiguration(
            f"BRIE_ENGINE=llamacpp needs llama-cpp-python ({error}): pip install 'brie-llm[llamacpp]'."
        ) from error

"""Makes the engine that the settings name. It alone knows which engines exist, and imports only the one it makes."""

from brie_core.errors import BadConfiguration
from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_server.engine.base import Engine


def create_engine(settings: Settings, base: BaseModel) -> Engine:
    """An engine with its model loaded; takes seconds, so call it on a worker thread. Raises BadConfiguration."""
    if settings.engine == "torch":
        return _torch_engine(settings, base)
    raise BadConfiguration(f"BRIE_ENGINE={settings.engine} is no engine of this version.")


def _torch_engine(settings: Settings, base: BaseModel) -> Engine:
    from brie_server.engine.torch.device import choose_device, choose_dtype
    from brie_server.engine.torch.engine import TorchEngine
    from brie_server.engine.torch.scheduler import Limits

    device = choose_device(settings.device)
    return TorchEngine(base, device, choose_dtype(settings.dtype, device), Limits())

"""vLLM's /v1/load_lora_adapter and /v1/unload_lora_adapter: import a PEFT folder under a name, drop a name.

A server of a GGUF file takes a GGUF adapter too, as `brie export --format gguf_adapter` and llama.cpp make them.
"""

from pathlib import Path

from litestar import post
from litestar.enums import MediaType
from litestar.params import JSONBody

from brie_core.background import in_background
from brie_core.durable import staging_folder
from brie_core.errors import InvalidAdapter, InvalidRequest, NotFound
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterVersion
from brie_core.weights.gguf_adapter_reading import write_peft_folder
from brie_core.weights.gguf_model import GgufModel
from brie_server.api.models import check_free_name, remove_name
from brie_server.api.services import Given, Services
from brie_server.schema.resources import LoadAdapter, UnloadAdapter


@post("/load_lora_adapter", status_code=200, media_type=MediaType.TEXT, operation_id="loadLoraAdapter")
async def load_lora_adapter(data: JSONBody[LoadAdapter], services: Given) -> str:
    """Import the folder into the store as a version, and point the name at it."""
    check_free_name(data.lora_name, services, param="lora_name")
    known = await _version_of(data.lora_name, services)
    if known is not None and not data.load_inplace:
        raise InvalidRequest(
            f"The LoRA adapter {data.lora_name!r} has already been loaded: set load_inplace to replace it.",
            param="lora_name",
            code="adapter_exists",
        )
    path = _allowed_path(Path(data.lora_path), services.settings)
    version = await in_background(_publish, path, services)
    if data.pinned:
        await services.residency.pin(data.lora_name, version.digest)
    await services.aliases.move(
        data.lora_name, version.digest, expected=known, check=lambda: services.adapters.open(version.digest)
    )
    if not data.pinned:
        services.residency.unpin(data.lora_name)
        services.residency.expect(version)
    return f"Success: LoRA adapter '{data.lora_name}' added successfully."


@post("/unload_lora_adapter", status_code=200, media_type=MediaType.TEXT, operation_id="unloadLoraAdapter")
async def unload_lora_adapter(data: JSONBody[UnloadAdapter], services: Given) -> str:
    """Drop the name; requests that already answer from it run to their end."""
    await remove_name(data.lora_name, services)
    return f"Success: LoRA adapter '{data.lora_name}' removed successfully."


def _publish(path: Path, services: Services) -> AdapterVersion:
    base, source = services.base, {"source": {"kind": "import", "folder": path.name}}
    if path.is_dir():
        return services.adapters.publish(path, base, source)
    if not isinstance(base, GgufModel):
        raise InvalidAdapter(
            "A GGUF adapter is loaded by a server of a GGUF file: here, give the PEFT folder that it was made of.",
            param="lora_path",
            code="adapter_unsupported",
        )
    with staging_folder(services.settings.home / "tmp", "gguf-adapter") as staged:
        write_peft_folder(path, staged, base, base.digest)
        return services.adapters.publish(staged, base, source)


async def _version_of(name: str, services: Services) -> str | None:
    try:
        return (await services.aliases.get(name)).version
    except NotFound:
        return None


def _allowed_path(path: Path, settings: Settings) -> Path:
    """The folder or GGUF file, links resolved, inside BRIE_HOME or a root that the operator named."""
    try:
        folder = path.expanduser().resolve()
        exists = folder.is_dir() or (folder.suffix == ".gguf" and folder.is_file())
    except (OSError, ValueError, RuntimeError) as error:
        message = f"The path cannot be looked at: {error}"
        raise NotFound(message, param="lora_path", code="adapter_path_not_found") from error
    roots = [root.resolve() for root in (settings.home, *settings.adapter_roots)]
    if not any(folder.is_relative_to(root) for root in roots):
        raise InvalidAdapter(
            "Adapters are imported from BRIE_HOME and BRIE_ADAPTER_ROOTS only: copy the folder there, or add its "
            "parent to BRIE_ADAPTER_ROOTS and restart.",
            param="lora_path",
            code="adapter_path_forbidden",
        )
    if not exists:
        raise NotFound(f"There is no folder {path}.", param="lora_path", code="adapter_path_not_found")
    return folder

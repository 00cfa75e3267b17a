"""Models, files, and the bodies of Brie's own routes on the wire."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, ValidationInfo

from brie_core.wire import Resource
from brie_server.schema.common import Body, Flag, Name, StrictBody
from brie_server.schema.conditions import MERGED_DTYPE, QUANTIZED_GGUF

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ModelObject(Resource):
    """A name that can be asked."""

    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["brie"] = "brie"
    root: str
    """What answers: the base's name, or the digest of the adapter version."""
    parent: str | None = None
    """The base model of an adapter."""


class FileObject(Resource):
    """An uploaded or produced file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: Annotated[int | None, Field(exclude_if=lambda at: at is None)] = None
    """Sent only for a file that expires."""


PURPOSES = ("fine-tune", "assistants", "batch", "vision", "user_data", "evals")
LIFETIMES_S = range(3600, 2_592_001)
FILE_FORM = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[seconds]": {"type": "integer", "minimum": LIFETIMES_S[0], "maximum": LIFETIMES_S[-1]},
    },
    "required": ["file", "purpose"],
}
"""The form that uploads a file, in the words of JSON Schema."""


class LoadAdapter(Body):
    """vLLM's body: name a PEFT folder."""

    lora_name: Name
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    load_inplace: Flag = False
    pinned: Flag = False
    """Not vLLM's: load it now, and keep it loaded."""


class UnloadAdapter(Body):
    """vLLM's body: drop a name."""

    lora_name: Name


class PointAdapter(StrictBody):
    """Point a name at a version, if it still points where the caller thinks."""

    version: Digest
    expected_version: Digest | None = None
    gate: Flag = False
    """Only if a finished evaluation of exactly this version has passed the name's stored gate."""


def _of_gguf(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None and info.data.get("format", "gguf") != "gguf":
        raise ValueError(f"the format {info.data['format']} has no quantization: leave it out")
    return value


def _of_merged(value: str | None, info: ValidationInfo) -> str | None:
    if value is not None and info.data.get("format", "merged") != "merged":
        raise ValueError(f"the format {info.data['format']} has no dtype: leave it out")
    return value


class CreateExport(StrictBody):
    """Ask for a model, or an adapter, as files."""

    model_config = ConfigDict(json_schema_extra={"allOf": [QUANTIZED_GGUF, MERGED_DTYPE]})

    model: Name
    format: Literal["gguf", "gguf_adapter", "merged", "peft"] = "gguf"
    quantization: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=32)] | None, AfterValidator(_of_gguf)
    ] = None
    """Of a GGUF file; f16 where nothing is said."""
    dtype: Annotated[Literal["f32", "f16", "bf16"] | None, AfterValidator(_of_merged)] = None
    """Of a merged folder; the checkpoint's own where nothing is said."""

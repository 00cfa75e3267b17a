"""What the routes are given: the stores, the base model and the generator. It knows no route."""

from dataclasses import dataclass

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from brie_core.errors import InvalidRequest
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.files import FileStore
from brie_core.store.gates import GateStore
from brie_core.store.job_store import JobStore
from brie_core.store.responses import ResponseStore
from brie_core.store.workers import WorkerStore
from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_model import ServedModel
from brie_server.adapters.residency import Residency
from brie_server.api.requests import UnknownFields
from brie_server.generation.embedder import Embedder
from brie_server.generation.forms import Forms
from brie_server.generation.generator import Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One running server's parts."""

    settings: Settings
    base: ServedModel
    started_at: int
    jobs: JobStore
    files: FileStore
    aliases: AliasStore
    adapters: AdapterStore
    responses: ResponseStore
    gates: GateStore
    workers: WorkerStore
    residency: Residency
    generator: Generator
    embedder: Embedder
    forms: Forms
    unknown_fields: UnknownFields

    def fingerprint(self, version: str | None) -> str:
        """OpenAI's system_fingerprint: the base's weights, and the adapter version if one answered."""
        return f"brie-{self.base.weights_digest[:12]}" + (f"-{version[:12]}" if version else "")

    def trainable_base(self) -> BaseModel:
        """The base as a job starts from it; raises InvalidRequest if this server answers from a GGUF file."""
        if isinstance(self.base, BaseModel):
            return self.base
        raise InvalidRequest(
            f"{self.base.id!r} is a GGUF file, which is only served: train and export with a server whose BRIE_MODEL "
            "is the base's Hugging Face folder.",
            param="model",
            code="base_not_trainable",
        )


Given = NamedDependency[SkipValidation[Services]]
"""Taken as it is: there is nothing to validate in what the application itself provides."""

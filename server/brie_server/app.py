"""Wires the parts into one Litestar application: the only place that does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide

from brie_core import __version__
from brie_core.errors import BadConfiguration, NotFound
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.store.gates import GateStore
from brie_core.store.job_store import JobStore
from brie_core.store.responses import ResponseStore
from brie_core.store.schema import open_database
from brie_core.store.workers import WorkerStore
from brie_core.text.codec import TextCodec
from brie_core.weights.gguf_model import ServedModel
from brie_server.adapters.residency import Residency
from brie_server.api import routes
from brie_server.api.docs import DocumentationPage
from brie_server.api.document import DocumentConfig
from brie_server.api.errors import EXCEPTION_HANDLERS
from brie_server.api.requests import Door, JsonRequest, UnknownFields, name_request, tell_methods
from brie_server.api.services import Services
from brie_server.engine.base import Engine
from brie_server.engine.factory import create_engine, open_codec
from brie_server.generation.embedder import Embedder
from brie_server.generation.forms import Forms
from brie_server.generation.generator import Generator

EngineFactory = Callable[[Settings, ServedModel], Engine]
MAX_BODY = 16 * 2**20
_Text = tuple[TextCodec, Forms]


def create_app(settings: Settings, base: ServedModel, engine_factory: EngineFactory = create_engine) -> Litestar:
    """The application; its stores are open and its engine loaded once its lifespan has begun."""
    return Litestar(
        route_handlers=[
            Router("/v1", route_handlers=routes.V1),
            *routes.ROOT,
            Router("/", route_handlers=routes.BARE, include_in_schema=False),
        ],
        dependencies={"services": Provide(_services, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        guards=[Door(settings)],
        before_send=[name_request, tell_methods],
        lifespan=[lambda app: _running(app, settings, base, engine_factory)],
        request_class=JsonRequest,
        request_max_body_size=MAX_BODY,
        openapi_config=DocumentConfig(
            title="Brie",
            version=__version__,
            path="/docs",
            render_plugins=[DocumentationPage()],
            use_handler_docstrings=True,
        ),
        logging_config=None,
    )


def _services(state: State) -> Services:
    services: Services = state["services"]
    return services


@asynccontextmanager
async def _running(app: Litestar, settings: Settings, base: ServedModel, factory: EngineFactory) -> AsyncIterator[None]:
    """Open the stores, load the engine, and close both again; the port is bound only once all of it is there."""
    (settings.home / "tmp").mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        database = await open_database(settings)
        stack.push_async_callback(database.aclose)
        await _check_base_name(base, AliasStore(database))
        text = asyncio.create_task(asyncio.to_thread(_open_text, base))
        engine = await asyncio.to_thread(factory, settings, base)
        stack.push_async_callback(engine.aclose)
        app.state["services"] = _wire(settings, base, database, engine, await text)
        yield


def _open_text(base: ServedModel) -> _Text:
    """Beside the engine, which takes longer to load."""
    codec = open_codec(base)
    return codec, Forms(codec)


async def _check_base_name(base: ServedModel, aliases: AliasStore) -> None:
    """The base must not answer under a name that an adapter has."""
    with suppress(NotFound):
        alias = await aliases.get(base.id)
        raise BadConfiguration(
            f"The base model would be served as {base.id!r}, which is the name of an adapter (version "
            f"{alias.version[:12]}) in this BRIE_HOME: rename the model's folder, or serve it from another BRIE_HOME."
        )


def _wire(settings: Settings, base: ServedModel, database: Database, engine: Engine, text: _Text) -> Services:
    codec, forms = text
    aliases, adapters = AliasStore(database), AdapterStore(settings.home)
    residency = Residency(engine, base, aliases, adapters)
    return Services(
        settings=settings,
        base=base,
        started_at=int(time.time()),
        jobs=JobStore(database),
        files=FileStore(database, settings.home),
        aliases=aliases,
        adapters=adapters,
        responses=ResponseStore(database),
        gates=GateStore(settings.home),
        workers=WorkerStore(database),
        residency=residency,
        generator=Generator(engine, codec, residency),
        embedder=Embedder(engine, residency),
        forms=forms,
        unknown_fields=UnknownFields(),
    )

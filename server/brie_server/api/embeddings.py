"""POST /v1/embeddings. It knows the wire and the embedder, not how vectors are made."""

import asyncio
import base64
import struct
from collections.abc import Sequence

from litestar import Response, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.serialization import encode_json
from msgspec import Raw

from brie_server.api.answers import version_header
from brie_server.api.disconnects import while_connected
from brie_server.api.requests import JsonRequest
from brie_server.api.services import Given, Services
from brie_server.engine.base import Embedding
from brie_server.schema.embeddings import EmbeddingList, EmbeddingObject, EmbeddingRequest, EmbeddingUsage


@post(
    "/embeddings",
    status_code=200,
    operation_id="createEmbedding",
    responses={200: ResponseSpec(EmbeddingList, generate_examples=False, description="A vector for each text")},
)
async def create_embedding(data: JSONBody[EmbeddingRequest], services: Given, request: JsonRequest) -> Response[bytes]:
    """A vector for each text."""
    services.unknown_fields.note(data)
    return await while_connected(request, _respond(data, services))


async def _respond(data: EmbeddingRequest, services: Services) -> Response[bytes]:
    texts = await services.generator.text_prompts(data.model, data.input)
    services.embedder.check_size(data.dimensions)
    made = await services.embedder.embed(data.model, texts)
    without = EmbeddingList(data=[], model=data.model, usage=_usage(texts))
    content = await asyncio.to_thread(_rendered, without, made.vectors, data)
    return Response(content, media_type="application/json", headers=version_header(made.version))


def _rendered(without: EmbeddingList, vectors: Sequence[Embedding], body: EmbeddingRequest) -> bytes:
    """Vector by vector: a million numbers at once would keep all others from the interpreter for half a second."""
    data = [Raw(_object(*each, body).model_dump_json()) for each in enumerate(vectors)]
    return encode_json(without.model_dump() | {"data": data})


def _object(number: int, vector: Embedding, body: EmbeddingRequest) -> EmbeddingObject:
    """Both forms hold the same numbers, those that float32 has."""
    packed = struct.pack(f"<{len(vector)}f", *vector)
    if body.encoding_format == "base64":
        return EmbeddingObject(index=number, embedding=base64.b64encode(packed).decode())
    return EmbeddingObject(index=number, embedding=list(struct.unpack(f"<{len(vector)}f", packed)))


def _usage(texts: Sequence[Sequence[int]]) -> EmbeddingUsage:
    num_tokens = sum(map(len, texts))
    return EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)

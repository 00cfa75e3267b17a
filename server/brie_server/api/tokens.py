"""POST /tokenize and /detokenize: the model's own tokenizer, for who counts or caches tokens. It answers nothing."""

import asyncio

from litestar import post
from litestar.params import JSONBody

from brie_server.api.conversations import conversation_of
from brie_server.api.services import Given, Services
from brie_server.schema.tokens import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest


@post("/tokenize", status_code=200, operation_id="tokenize")
async def tokenize(data: JSONBody[TokenizeRequest], services: Given) -> Tokenized:
    """A text or a conversation as token ids."""
    services.unknown_fields.note(data)
    tokens = await _tokens(data, services)
    spell = services.generator.spell
    return Tokenized(
        count=len(tokens),
        max_model_len=services.generator.context_length,
        tokens=tokens,
        token_strs=[spell(token).decode(errors="replace") for token in tokens] if data.return_token_strs else None,
    )


@post("/detokenize", status_code=200, operation_id="detokenize")
async def detokenize(data: JSONBody[DetokenizeRequest], services: Given) -> Detokenized:
    """Token ids as text, special tokens left out."""
    services.unknown_fields.note(data)
    if data.model is not None:
        await services.residency.check(data.model)
    text = await asyncio.to_thread(services.generator.text_of, data.tokens)
    return Detokenized(prompt=text, content=text)


async def _tokens(body: TokenizeRequest, services: Services) -> list[int]:
    model = services.base.id if body.model is None else body.model
    if body.messages is not None:
        return await services.generator.chat_prompt(model, conversation_of(body, body.messages))
    text = body.content if body.prompt is None else body.prompt
    (tokens,) = await services.generator.text_prompts(model, [text or ""], with_special=body.adds_special_tokens)
    return tokens

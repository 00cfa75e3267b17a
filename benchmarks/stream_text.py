"""Whether a stream says what the whole answer says: the same seeded requests both ways, by OpenAI's own SDK.

    python benchmarks/stream_text.py [--requests 500] [--concurrency 8]

The bar is that all are equal: text, reason it ended, usage, and the tokens of logprobs. Half of the requests go to the
default model and half to a tiny random one, which says broken UTF-8 all the time; chats and text completions in turn. A
third of them lean towards tokens that are not ASCII, and half have a stop string out of the middle of what they say
without one, which begins in one token and ends in another.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from openai import AsyncOpenAI

from brie_core.settings import Settings
from brie_core.text.codec import TextCodec
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.resolve import resolve_base_model
from servers import base_model, brie, running

_SUBJECTS = ("cheese", "Spinoza", "glass lenses", "Amsterdam", "rain", "a small boat", "the number seven")
_FOREIGN = (
    "说说北京的天气。",
    "チーズについて話してください。",
    "Reply in emoji only: 🧀🎉👩‍👩‍👧🇳🇱",
    "اكتب عن البحر",
    "한국어로 말해 줘.",
)
_MOST_BIASES = 1000


@dataclass(frozen=True)
class Case:
    """One request, to be sent both ways."""

    is_chat: bool
    fields: dict[str, Any]
    wants_stop: bool


@dataclass(frozen=True)
class Answer:
    """What one way of asking gave."""

    text: str
    finish: str | None
    usage: tuple[int, int, int]
    tokens: tuple[str, ...]

    def straddling_stop(self, chance: Random) -> str | None:
        """A piece of its middle that begins in one token and ends in a later one; None where there is none."""
        borders = _borders(self.tokens)
        inside = [place for place in borders if 2 <= place <= len(self.text) - 2]
        if not inside:
            return None
        border = chance.choice(inside[len(inside) // 4 : len(inside) // 4 * 3 + 1])
        return self.text[border - chance.randint(1, 2) : border + chance.randint(1, 3)]


def _borders(tokens: Sequence[str]) -> list[int]:
    """Where tokens that are whole characters end, up to the first that is none."""
    borders, place = [], 0
    for token in tokens:
        if "\ufffd" in token or token.startswith("bytes:"):
            break
        place += len(token)
        borders.append(place)
    return borders


def cases(number: int, codec: TextCodec, temperature: float, num_tokens: int) -> list[Case]:
    """The same ones each time."""
    chance, foreign_ids = Random(number), _foreign_ids(codec)
    return [_case(index, chance, foreign_ids, codec, temperature, num_tokens) for index in range(number)]


def _case(  # noqa: PLR0913, PLR0917  # one line of a table
    index: int, chance: Random, foreign_ids: Sequence[int], codec: TextCodec, temperature: float, num_tokens: int
) -> Case:
    is_chat, text = index % 2 == 0, chance.choice([f"Tell me about {chance.choice(_SUBJECTS)}.", *_FOREIGN])
    fields: dict[str, Any] = {"seed": index, "temperature": temperature, "max_tokens": num_tokens}
    if index % 3 == 0:
        few = chance.sample(foreign_ids, min(_MOST_BIASES, len(foreign_ids)))
        fields["logit_bias"] = {str(token): chance.choice([4, 8, 100]) for token in few}
    if is_chat:
        fields |= {"messages": [{"role": "user", "content": text}], "logprobs": True, "top_logprobs": 1}
    else:
        ids = codec.encode(text)
        fields |= {"prompt": ids[:-1] if index % 4 == 1 and len(ids) > 1 else text, "logprobs": 1}
    return Case(is_chat, fields, wants_stop=chance.random() < 0.5)


def _foreign_ids(codec: TextCodec) -> list[int]:
    """Tokens with bytes beyond ASCII: whole characters of other scripts, and parts of characters."""
    ids = (token for token in range(codec.vocab_size) if token not in codec.stop_ids)
    return [token for token in ids if any(byte > 127 for byte in codec.piece(token))]


async def both_ways(client: AsyncOpenAI, model: str, case: Case, found: Counter[str]) -> str | None:
    """What differs between the stream and the whole, as words; None if nothing does."""
    fields, chance = {"model": model, **case.fields}, Random(case.fields["seed"])
    if case.wants_stop:
        unstopped = await whole(client, fields, is_chat=case.is_chat)
        if stop := unstopped.straddling_stop(chance):
            fields["stop"] = [stop]
    one = await whole(client, fields, is_chat=case.is_chat)
    other = await streamed(client, fields, is_chat=case.is_chat)
    found["requests"] += 1
    found["not ASCII"] += not one.text.isascii()
    found["with U+FFFD"] += "\ufffd" in one.text
    if "stop" in fields:
        found["cut by a stop string"] += one.finish == "stop" and fields["stop"][0] not in one.text
    return None if one == other else f"{fields}\n  whole  {one}\n  stream {other}"


async def whole(client: AsyncOpenAI, fields: dict[str, Any], *, is_chat: bool) -> Answer:
    """The answer in one piece."""
    if is_chat:
        chat = await client.chat.completions.create(**fields)
        choice, usage = chat.choices[0], chat.usage
        tokens = _chat_tokens([choice])
        text = choice.message.content or ""
    else:
        completion = await client.completions.create(**fields)
        choice, usage = completion.choices[0], completion.usage
        tokens, text = _text_tokens([choice]), choice.text
    return Answer(text, choice.finish_reason, _usage(usage), tokens)


async def streamed(client: AsyncOpenAI, fields: dict[str, Any], *, is_chat: bool) -> Answer:
    """The same, joined."""
    create = client.chat.completions.create if is_chat else client.completions.create
    parts: Any = await create(stream=True, stream_options={"include_usage": True}, **fields)
    chunks = [chunk async for chunk in parts]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join((choice.delta.content or "") if is_chat else choice.text for choice in choices)
    finishes = [choice.finish_reason for choice in choices if choice.finish_reason]
    tokens = _chat_tokens(choices) if is_chat else _text_tokens(choices)
    return Answer(text, finishes[-1] if len(finishes) == 1 else str(finishes), _usage(chunks[-1].usage), tokens)


def _usage(usage: Any) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def _chat_tokens(choices: Iterable[Any]) -> tuple[str, ...]:
    told = (token for choice in choices if choice.logprobs for token in choice.logprobs.content or ())
    return tuple(token.token for token in told)


def _text_tokens(choices: Iterable[Any]) -> tuple[str, ...]:
    return tuple(token for choice in choices if choice.logprobs for token in choice.logprobs.tokens or ())


async def compare(url: str, model: str, asked: Sequence[Case], concurrency: int) -> tuple[Counter[str], list[str]]:
    """What the requests' answers held, and what differed."""
    found, turns = Counter[str](), asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=0) as client:

        async def one(case: Case) -> str | None:
            async with turns:
                return await both_ways(client, model, case, found)

        different = await asyncio.gather(*map(one, asked))
    return found, [each for each in different if each]


def main() -> None:
    """Both models, a line of counts for each, and all that differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    misses: list[str] = []
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as folder:
        work = Path(folder)
        base = resolve_base_model(Settings(home=work / "import"))
        tiny = _tiny(work / "tiny", base.folder)
        for path, temperature in ((base.folder, 1.0), (tiny, 1.5)):
            asked = cases(-(-given.requests // 2), Tokenizer(path), temperature, num_tokens=24)
            server = brie("brie", work / path.name, work, {"BRIE_MODEL": str(path), "BRIE_DTYPE": given.dtype})
            with running(server, work / "log") as url:
                found, different = asyncio.run(compare(url, base_model(url), asked, given.concurrency))
            print(f"{path.name}: {dict(found)}, {len(different)} differ")
            misses += different
    print("\n".join(misses[:10]) or "pass")
    sys.exit(bool(misses))


def _tiny(folder: Path, tokenizer_from: Path) -> Path:
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from tiny_models import write_tiny_llama

    return write_tiny_llama(folder, tokenizer_from)


if __name__ == "__main__":
    main()

"""A stream says what the whole answer says, however it is cut: a small share of benchmarks/stream_text.py.

One request at a time: beside others a sum's last bit may differ, and with it once in a while a token.
"""

import asyncio
from pathlib import Path

from brie_core.text.tokenizer import Tokenizer
from brie_processes import BrieProcesses
from stream_text import cases, compare


def test_streams_joined_are_the_whole_answers(brie: BrieProcesses, tiny_model: Path) -> None:
    asked = cases(30, Tokenizer(tiny_model), temperature=1.5, num_tokens=24)
    found, different = asyncio.run(compare(brie.url, "tiny", asked, concurrency=1))
    assert different == []
    assert found["requests"] == 30
    assert min(found["not ASCII"], found["with U+FFFD"], found["cut by a stop string"]) >= 3

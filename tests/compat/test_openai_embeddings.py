"""/v1/embeddings: the unmodified openai SDK against a running Brie, and transformers and peft as judges."""

import base64
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from openai import OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

from brie_processes import BrieProcesses

TEXTS = ["A cheese", "Who was Spinoza?", "🧀 is", "lens " * 300, "x"]


@pytest.fixture
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client(_strict_response_validation=True)


@pytest.fixture
def tuned(brie: BrieProcesses, tiny_lora: Path) -> Iterator[str]:
    """The name of an adapter of the running Brie."""
    folder = Path(shutil.copytree(tiny_lora, brie.home / "tmp" / "embedding-lora"))
    loaded = httpx2.post(f"{brie.url}/v1/load_lora_adapter", json={"lora_name": "embedding", "lora_path": str(folder)})
    assert loaded.status_code == 200
    yield "embedding"
    httpx2.post(f"{brie.url}/v1/unload_lora_adapter", json={"lora_name": "embedding"})
    shutil.rmtree(folder)


def expected(model: Any, ids: list[int]) -> torch.Tensor:
    """The mean of the last hidden states, of length one."""
    with torch.no_grad():
        told = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    mean: torch.Tensor = told.hidden_states[-1][0].mean(0)
    return torch.nn.functional.normalize(mean, dim=0)


def check(found: Any, wanted: torch.Tensor) -> None:
    told = torch.tensor(found)
    assert float(torch.cosine_similarity(told, wanted, dim=0)) > 0.9999
    assert float((told - wanted).abs().max()) < 1e-4
    assert float(told.norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("how", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}], ids=str)
def test_several_texts_have_transformers_vectors_in_their_order(
    how: Any, brie: BrieProcesses, model: Any, tokenizer: Any
) -> None:
    """Where nothing is said the SDK asks for base64 and reads it, but its strict check knows numbers only."""
    client = brie.client(_strict_response_validation=how == {"encoding_format": "float"})
    raw = client.embeddings.with_raw_response.create(model="tiny", input=TEXTS, **how)
    answer = raw.parse()
    assert raw.headers["brie-adapter-version"] == "base"
    assert (answer.object, answer.model) == ("list", "tiny")
    assert [(each.object, each.index) for each in answer.data] == [("embedding", index) for index in range(len(TEXTS))]
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (sum(map(len, ids)),) * 2
    for each, own in zip(answer.data, ids, strict=True):
        vector: Any = each.embedding
        if how == {"encoding_format": "base64"}:
            vector = read_base64(vector)
        check(vector, expected(model, own))


def read_base64(text: str) -> list[float]:
    packed = base64.b64decode(text)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def test_both_forms_hold_the_same_numbers(client: OpenAI, brie: BrieProcesses) -> None:
    floats = client.embeddings.create(model="tiny", input="A cheese", encoding_format="float").data[0].embedding
    assert brie.client().embeddings.create(model="tiny", input="A cheese").data[0].embedding == pytest.approx(
        floats, abs=1e-6
    )


def test_ids_are_taken_as_they_are(client: OpenAI, tokenizer: Any) -> None:
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    how: Any = {"model": "tiny", "encoding_format": "float"}
    by_text = client.embeddings.create(input=TEXTS, **how)
    by_ids = client.embeddings.create(input=ids, **how)
    for one, other in zip(by_text.data, by_ids.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)
    alone = client.embeddings.create(input=ids[1], **how)
    assert len(alone.data) == 1
    assert alone.data[0].embedding == pytest.approx(by_text.data[1].embedding, abs=1e-5)
    assert alone.usage.prompt_tokens == len(ids[1])


def test_an_adapter_has_its_own_vectors(
    tuned: str, client: OpenAI, tiny_model: Path, tiny_lora: Path, tokenizer: Any
) -> None:
    judge = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(tiny_lora)).eval()
    raw = client.embeddings.with_raw_response.create(model=tuned, input=TEXTS, encoding_format="float")
    assert raw.headers["brie-adapter-version"] != "base"
    answer, base = raw.parse(), client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    for each, other, text in zip(answer.data, base.data, TEXTS, strict=True):
        check(each.embedding, expected(judge, tokenizer(text)["input_ids"]))
        assert float((torch.tensor(each.embedding) - torch.tensor(other.embedding)).abs().max()) > 1e-3


def test_as_many_texts_as_openai_takes_are_embedded_while_a_stream_goes_on(client: OpenAI) -> None:
    """More than the engine's rows and queue hold: a request does not overrun the server by itself."""
    how: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 60}
    alone = client.chat.completions.create(**how).choices[0].message.content
    stream = client.chat.completions.create(stream=True, **how)
    first = next(stream).choices[0].delta.content or ""
    texts = [f"text {number}" for number in range(2048)]
    answer = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    assert len(answer.data) == len(texts)
    assert first + "".join(chunk.choices[0].delta.content or "" for chunk in stream) == alone
    again = client.embeddings.create(model="tiny", input=texts[1000], encoding_format="float")
    assert answer.data[1000].embedding == pytest.approx(again.data[0].embedding, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": [[1, 2], []]}, "input[1]"),
        ({"input": [[1], ["a"]]}, "input[1]"),
        ({"input": [1, True]}, "input[0]"),
        ({"input": [1, -1]}, "input[0]"),
        ({"input": [[1], [1, 49152]]}, "input[1]"),
        ({"input": [[1], [2**63]]}, "input[1]"),
        ({"input": ["x"] * 2049}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "64"}, "dimensions"),
        ({"dimensions": 32}, "dimensions"),
        ({"model": ""}, "model"),
    ],
)
def test_what_cannot_be_embedded_is_named(change: Any, param: str, brie: BrieProcesses) -> None:
    body = {"model": "tiny", "input": "x"} | change
    answer = httpx2.post(f"{brie.url}/v1/embeddings", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_text_beyond_the_context_is_named_with_counts_and_ends_all(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="tiny", input=["short", "word " * 600, "short"])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input[1]")
    assert "512" in refused.value.message
    whole = client.embeddings.create(model="tiny", input=[[5] * 512], encoding_format="float")
    assert whole.usage.total_tokens == 512


def test_the_only_dimensions_are_the_models(client: OpenAI) -> None:
    how: Any = {"model": "tiny", "input": "x", "encoding_format": "float"}
    assert len(client.embeddings.create(dimensions=64, user="somebody", **how).data[0].embedding) == 64
    with pytest.raises(openai.BadRequestError, match="64"):
        client.embeddings.create(dimensions=32, **how)


def test_an_unknown_name_is_no_base(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nobody", input="x", dimensions=1)


def test_clients_of_llama_cpp_find_it_without_v1(brie: BrieProcesses) -> None:
    body = {"model": "tiny", "input": "x"}
    told, bare = (httpx2.post(f"{brie.url}{path}/embeddings", json=body) for path in ("/v1", ""))
    assert bare.status_code == 200
    assert [each["index"] for each in bare.json()["data"]] == [0]
    assert json.loads(bare.text).keys() == told.json().keys()

"""Several answers to one request, and prompts sent back: the unmodified openai SDK against a running Brie."""

from collections import defaultdict
from typing import Any

import httpx2
import openai
import pytest
import torch
from openai import OpenAI

from brie_processes import BrieProcesses
from compat.test_openai_sampling import MESSAGES, TEXT, logprobs_after

PROMPTS = [TEXT, "A cheese", "🧀 is"]


@pytest.fixture
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client(_strict_response_validation=True)


def say(client: OpenAI, **how: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=MESSAGES, **({"max_tokens": 12} | how))


def test_each_answer_has_the_seed_that_follows(client: OpenAI) -> None:
    three = say(client, n=3, seed=7)
    alone = [say(client, seed=seed) for seed in (7, 8, 9)]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert [choice.message.content for choice in three.choices] == [each.choices[0].message.content for each in alone]
    assert len({choice.message.content for choice in three.choices}) == 3
    assert three.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert three.usage.completion_tokens == sum(each.usage.completion_tokens for each in alone)


def test_a_stream_of_several_answers_is_the_whole_of_each(client: OpenAI) -> None:
    how: Any = {"n": 3, "seed": 7}
    whole, texts, roles, finishes = say(client, **how), defaultdict[int, str](str), [], {}
    usage = None
    for chunk in say(client, stream=True, stream_options={"include_usage": True}, **how):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in finishes
            if choice.delta.role:
                roles.append(choice.index)
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    assert sorted(roles) == [0, 1, 2]
    assert [texts[index] for index in range(3)] == [choice.message.content for choice in whole.choices]
    assert [finishes[index] for index in range(3)] == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_several_prompts_are_answered_in_their_order(client: OpenAI, tokenizer: Any) -> None:
    how: Any = {"model": "tiny", "temperature": 0, "max_tokens": 6}
    alone = [client.completions.create(prompt=prompt, **how) for prompt in PROMPTS]
    texts = [each.choices[0].text for each in alone]
    together = client.completions.create(prompt=PROMPTS, n=2, **how)
    assert [choice.text for choice in together.choices] == [text for text in texts for _ in range(2)]
    assert [choice.index for choice in together.choices] == list(range(6))
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(each.usage.prompt_tokens for each in alone if each.usage)
    by_ids = client.completions.create(prompt=[tokenizer(prompt)["input_ids"] for prompt in PROMPTS], **how)
    assert [choice.text for choice in by_ids.choices] == texts


def test_an_echo_comes_before_the_answer_with_the_logprobs_of_both(
    brie: BrieProcesses, model: Any, tokenizer: Any
) -> None:
    client = brie.client()  # the SDK's own type knows no null among token_logprobs, which OpenAI sends
    how: Any = {
        "model": "tiny",
        "prompt": [TEXT, "🧀 is"],
        "temperature": 0,
        "max_tokens": 5,
        "logprobs": 1,
        "echo": True,
    }
    answer = client.completions.create(**how)
    for choice, text in zip(answer.choices, how["prompt"], strict=True):
        assert choice.text.startswith(text)
        told = choice.logprobs
        assert told is not None
        ids = tokenizer(text)["input_ids"]
        rows = logprobs_after(model, ids)
        wanted = [float(rows[place, token]) for place, token in enumerate(ids[1:])]
        assert told.token_logprobs is not None
        assert told.token_logprobs[0] is None
        assert told.token_logprobs[1 : len(ids)] == pytest.approx(wanted, abs=1e-3)
        assert told.token_logprobs[len(ids)] == pytest.approx(float(torch.max(rows[-1])), abs=1e-3)
        assert (told.text_offset or [])[len(ids)] == len(text)
    parts = [choice for part in client.completions.create(stream=True, **how) for choice in part.choices]
    for whole in answer.choices:
        own = [part for part in parts if part.index == whole.index]
        assert "".join(part.text for part in own) == whole.text
        tokens = [token for part in own if part.logprobs for token in part.logprobs.tokens or []]
        assert whole.logprobs is not None
        assert tokens == whole.logprobs.tokens


def test_a_prompt_can_be_scored_without_an_answer(brie: BrieProcesses) -> None:
    answer = brie.client().completions.create(model="tiny", prompt=TEXT, max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (TEXT, "length")
    assert choice.logprobs is not None
    assert answer.usage is not None
    assert (len(choice.logprobs.tokens or []), answer.usage.completion_tokens) == (answer.usage.prompt_tokens, 0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"n": 100, "prompt": PROMPTS}, "256"),
        ({"prompt": ["a", ""]}, "none empty"),
        ({"prompt": [["a"], [1]]}, "token ids"),
    ],
)
def test_what_makes_no_sense_is_refused(how: Any, said: str, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.completions.create(**({"model": "tiny", "prompt": TEXT} | how))


def test_one_prompt_too_long_ends_all_and_leaves_nothing(client: OpenAI) -> None:
    prompts: Any = ["short", [5] * 100_000]
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt=prompts)
    assert refused.value.code == "context_length_exceeded"
    assert client.completions.create(model="tiny", prompt=PROMPTS, n=8, max_tokens=2).choices


@pytest.mark.parametrize("text", PROMPTS)
def test_tokens_are_told_and_read_as_vllm_and_llama_cpp_have_it(text: str, brie: BrieProcesses, tokenizer: Any) -> None:
    root = brie.url
    ids = tokenizer(text)["input_ids"]
    told = httpx2.post(f"{root}/tokenize", json={"model": "tiny", "prompt": text, "return_token_strs": True}).json()
    assert (told["tokens"], told["count"]) == (ids, len(ids))
    assert len(told["token_strs"]) == len(ids)
    assert httpx2.post(f"{root}/tokenize", json={"content": text}).json()["tokens"] == ids
    read = httpx2.post(f"{root}/detokenize", json={"tokens": ids}).json()
    assert read["prompt"] == read["content"] == text
    asked = httpx2.post(f"{root}/tokenize", json={"messages": MESSAGES}).json()["tokens"]
    assert asked == tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("tokenize", {}, 400),
        ("tokenize", {"prompt": "a", "content": "b"}, 400),
        ("tokenize", {"prompt": "a", "model": "nobody"}, 404),
        ("detokenize", {"tokens": [-1]}, 400),
    ],
)
def test_tokens_of_nothing_are_refused(path: str, body: Any, status: int, brie: BrieProcesses) -> None:
    answer = httpx2.post(f"{brie.url}/{path}", json=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_the_same_answers_lie_where_clients_of_llama_cpp_look(brie: BrieProcesses) -> None:
    root = brie.url
    bare = OpenAI(base_url=root, api_key="none")
    how: Any = {"model": "tiny", "temperature": 0, "max_tokens": 4}
    for each in (bare, brie.client()):
        each.chat.completions.create(messages=MESSAGES, **how)
        each.completions.create(prompt=TEXT, **how)
        assert each.models.list().data[0].id == "tiny"
    assert httpx2.get(f"{root}/health").json()["status"] == "ok"


def test_every_answer_names_its_request(client: OpenAI) -> None:
    names = {client.models.with_raw_response.list().headers["x-request-id"] for _ in range(3)}
    assert len(names) == 3
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("nobody")
    assert str(unknown.value.request_id).startswith("req_")


def test_every_answer_tells_how_many_more_would_be_taken_on(client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="tiny", prompt=TEXT, max_tokens=4, n=3)
    told = {name: raw.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset")}
    assert told == {"limit": "288", "remaining": "285", "reset": "0s"}
    raw = client.completions.with_raw_response.create(model="tiny", prompt=TEXT, max_tokens=4)
    assert raw.headers["x-ratelimit-remaining-requests"] == "287"

"""How answers are sampled, by the unmodified openai SDK against a running Brie, and held against transformers."""

from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob

from brie_processes import BrieProcesses

MESSAGES: Any = [{"role": "user", "content": "Who was Spinoza?"}]
TEXT = "Once upon a time"


@pytest.fixture
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client(_strict_response_validation=True)


def logprobs_after(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)


def rendered(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids


def say(client: OpenAI, **how: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=MESSAGES, **({"max_tokens": 12} | how))


def scored(answer: Any) -> list[ChatCompletionTokenLogprob]:
    logprobs = answer.choices[0].logprobs
    return [] if logprobs is None else logprobs.content or []


def test_chat_logprobs_are_the_models_own(client: OpenAI, model: Any, tokenizer: Any) -> None:
    answer = say(client, seed=1, logprobs=True, top_logprobs=3)
    content, ids = scored(answer), rendered(tokenizer)
    assert len(content) == 12
    for each in content:
        row = logprobs_after(model, ids)[-1]
        assert len(each.top_logprobs) == 3
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        tops = [tokenizer.convert_ids_to_tokens(int(token)) for token in row.topk(3).indices]
        assert [tokenizer.convert_tokens_to_string([top]) for top in tops] == [top.token for top in each.top_logprobs]
        ids.append(int((row - each.logprob).abs().argmin()))
    assert (
        b"".join(bytes(each.bytes or []) for each in content).decode(errors="replace")
        == answer.choices[0].message.content
    )


def test_no_logprobs_are_told_unless_asked_for(client: OpenAI) -> None:
    answer = say(client)
    assert answer.choices[0].logprobs is None
    assert "prompt_logprobs" not in (answer.model_extra or {})


@pytest.mark.parametrize("stop", [None, "stop string"])
def test_a_streams_chunks_carry_the_logprobs_of_their_own_text(stop: str | None, client: OpenAI) -> None:
    how: Any = {"seed": 3, "max_tokens": 20, "logprobs": True, "top_logprobs": 1}
    text = say(client, **how).choices[0].message.content
    how |= {"stop": text[len(text) // 2 :][:3]} if stop else {}
    whole, chunks = say(client, **how), list(say(client, stream=True, **how))
    told = [each for chunk in chunks for each in scored(chunk)]
    assert told == scored(whole)
    assert whole.choices[0].finish_reason == ("stop" if stop else "length")
    shown = ""
    for chunk in chunks:
        before, shown = shown, shown + (chunk.choices[0].delta.content or "")
        assert bool(scored(chunk)) == (len(shown) > len(before))
    spelled = b"".join(bytes(each.bytes or []) for each in told).decode(errors="replace")
    assert spelled.startswith(shown)
    assert len(spelled) - len(shown) < len(told[-1].token)


def test_text_logprobs_have_openais_four_lists(client: OpenAI, model: Any, tokenizer: Any) -> None:
    answer = client.completions.create(model="tiny", prompt=TEXT, temperature=0, max_tokens=8, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    tokens, offsets = logprobs.tokens or [], logprobs.text_offset or []
    rows = logprobs_after(model, tokenizer(TEXT)["input_ids"])
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] == pytest.approx(float(rows[-1].max()), abs=1e-3)
    for token, offset, tops in zip(tokens, offsets, logprobs.top_logprobs or [], strict=True):
        assert len(tops) == 2
        assert max(tops, key=lambda name: tops[name]) == token
        assert answer.choices[0].text[offset:].startswith(token) or token.startswith("bytes:")


def test_a_streamed_text_tells_the_same_logprobs(brie: BrieProcesses) -> None:
    client = brie.client()
    how: Any = {"model": "tiny", "prompt": TEXT, "temperature": 0, "max_tokens": 8, "logprobs": 0}
    whole = client.completions.create(**how).choices[0].logprobs
    parts = [part.choices[0].logprobs for part in client.completions.create(stream=True, **how)]
    assert whole is not None
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [each for part in parts if part for each in getattr(part, name)] == getattr(whole, name)


def test_prompt_logprobs_are_vllms(client: OpenAI, model: Any, tokenizer: Any) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    rows = logprobs_after(model, ids)
    how: Any = {"model": "tiny", "max_tokens": 1, "extra_body": {"prompt_logprobs": 2}}
    for prompt in (TEXT, ids):
        choice: Any = client.completions.create(prompt=prompt, **how).choices[0]
        first, *others = choice.prompt_logprobs
        assert first is None
        assert len(others) == len(ids) - 1
        for token, row, told in zip(ids[1:], rows, others, strict=False):
            assert set(told) == {str(each) for each in (token, *row.topk(2).indices.tolist())}
            assert told[str(token)]["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
            assert told[str(token)]["rank"] == int((row > row[token]).sum()) + 1
            assert told[str(token)]["decoded_token"] == tokenizer.decode([token])
    answer: Any = say(client, extra_body={"prompt_logprobs": 0})
    assert [None if each is None else len(each) for each in answer.prompt_logprobs] == [None] + [1] * (
        answer.usage.prompt_tokens - 1
    )


def test_a_prompt_of_token_ids_is_its_text(client: OpenAI, tokenizer: Any) -> None:
    prompts = (TEXT, tokenizer(TEXT)["input_ids"], [tokenizer(TEXT)["input_ids"]], [TEXT])
    texts = {client.completions.create(model="tiny", prompt=each, temperature=0).choices[0].text for each in prompts}
    assert len(texts) == 1


def test_a_bias_forces_and_forbids(client: OpenAI, model: Any, tokenizer: Any) -> None:
    forced = say(client, logit_bias={"4000": 100}, logprobs=True)
    assert {each.token for each in scored(forced)} == {tokenizer.decode([4000])}
    likely = int(logprobs_after(model, rendered(tokenizer))[-1].argmax())
    assert scored(say(client, temperature=0, logprobs=True))[0].token == tokenizer.decode([likely])
    without = say(client, temperature=0, logprobs=True, logit_bias={str(likely): -100})
    assert tokenizer.decode([likely]) not in [each.token for each in scored(without)]


@pytest.mark.parametrize(
    "how",
    [
        {"frequency_penalty": 2},
        {"presence_penalty": 2},
        {"extra_body": {"repetition_penalty": 1.8}},
        {"extra_body": {"top_k": 1}},
        {"extra_body": {"min_p": 1}},
    ],
)
def test_each_way_to_sample_changes_the_answer(how: Any, client: OpenAI) -> None:
    plain: Any = {"seed": 1, "max_tokens": 40, "logit_bias": {"4000": 11, "5000": 11}}
    first, again = (say(client, **plain, **how).choices[0].message.content for _ in range(2))
    assert first == again != say(client, **plain).choices[0].message.content


def test_neutral_values_change_nothing(client: OpenAI) -> None:
    neutral: Any = {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "logprobs": False}
    extra = {
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
        "min_tokens": 0,
        "stop_token_ids": [],
        "ignore_eos": False,
    }
    answers = (say(client, seed=1), say(client, seed=1, extra_body=extra, **neutral))
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_the_end_of_the_answer_can_be_moved(client: OpenAI) -> None:
    ends: Any = {"logit_bias": {"4000": 100}, "max_tokens": 9}
    stopped = say(client, extra_body={"stop_token_ids": [4000]}, **ends)
    assert (stopped.choices[0].finish_reason, stopped.usage.completion_tokens) == ("stop", 1)
    assert stopped.choices[0].message.content == ""
    later = say(client, extra_body={"stop_token_ids": [4000], "min_tokens": 5}, **ends)
    assert (later.choices[0].finish_reason, later.usage.completion_tokens) == ("stop", 6)
    eos: Any = {"logit_bias": {"2": 100}, "max_tokens": 9}
    assert say(client, **eos).usage.completion_tokens == 1
    ignored = say(client, extra_body={"ignore_eos": True}, **eos)
    assert (ignored.choices[0].finish_reason, ignored.usage.completion_tokens) == ("length", 9)


def test_what_the_engine_refuses_comes_before_a_stream(client: OpenAI) -> None:
    for how, param in (
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"extra_body": {"min_tokens": 99}}, "min_tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            say(client, stream=True, **how)
        assert caught.value.param == param

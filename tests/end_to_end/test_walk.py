"""The whole loop on the real model: what was trained is what is served is what is shipped."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from brie_core.settings import Settings
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_server.engine.base import Engine, Prompt, Sampling
from brie_server.engine.factory import create_engine
from end_to_end.conftest import Walked
from walk import QUESTION

pytestmark = pytest.mark.timeout(1200)
DATA = Path("clients/examples/data")
NUM_PROMPTS, NUM_TOKENS = 20, 64


def first_questions(name: str) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in (DATA / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The validation prompts, and as many training prompts as make twenty."""
    questions = [*first_questions("philosophy-validation.jsonl"), *first_questions("philosophy.jsonl")][:NUM_PROMPTS]
    turns = ([{"role": "user", "content": question}] for question in questions)
    return [tuple(tokenizer.encode(tokenizer.render(turn, add_generation_prompt=True))) for turn in turns]


@pytest.fixture(scope="module")
def reference(default_model: BaseModel, walked: Walked) -> Any:
    """Base and adapter in transformers and PEFT, f32."""
    base = AutoModelForCausalLM.from_pretrained(default_model.folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, walked.adapter).eval()


def generated(model: Any, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """Greedy answers by transformers' generate, cut behind the stop token."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[2] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NUM_TOKENS, do_sample=False)
    answers = out[:, longest:].tolist()
    return [answer[: answer.index(2) + 1] if 2 in answer else answer for answer in answers]


async def answered(engine: Engine, prompt: tuple[int, ...], adapter: str | None) -> list[int]:
    request = Prompt(
        token_ids=prompt,
        max_tokens=NUM_TOKENS,
        stop_ids=frozenset({2}),
        sampling=Sampling(temperature=0),
        adapter=adapter,
    )
    return [token.id async for token in engine.generate(request)]


@pytest.fixture(scope="module")
def engine_answers(
    default_model: BaseModel, walked: Walked, prompts: list[tuple[int, ...]]
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Base and adapter mixed in one batch, and the first two prompts of each alone."""

    async def run() -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        settings = Settings(home=walked.brie.home, dtype="float32", device="cpu")
        engine = create_engine(settings, default_model)
        try:
            await engine.load_adapter(walked.version, walked.adapter)
            names = (None, walked.version)
            mixed = await asyncio.gather(*(answered(engine, p, name) for p in prompts for name in names))
            alone = [await answered(engine, p, name) for p in prompts[:2] for name in names]
        finally:
            await engine.aclose()
        return mixed[::2], mixed[1::2], alone

    return asyncio.run(run())


def test_the_walk_told_openais_story(walked: Walked) -> None:
    events = walked.report.events
    assert events[:4] == [
        "Created fine-tuning job",
        "Validating training file",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert events[-1] == "The job has successfully completed"
    assert walked.report.checkpoints


def test_the_adapters_validation_loss_is_below_the_bases(walked: Walked) -> None:
    losses = walked.report.losses
    print("validation loss", losses)
    assert losses[-1] < losses[0] - 0.1


def test_the_adapter_answers_otherwise_than_the_base(
    engine_answers: tuple[list[list[int]], list[list[int]], list[list[int]]], walked: Walked
) -> None:
    base, adapter, _ = engine_answers
    assert walked.report.adapter_answer != walked.report.base_answer
    differing = sum(a != b for a, b in zip(base, adapter, strict=True))
    print(f"{differing} of {len(base)} greedy answers differ")
    assert differing >= NUM_PROMPTS - 1


def test_a_mixed_batch_answers_as_each_request_alone(
    engine_answers: tuple[list[list[int]], list[list[int]], list[list[int]]],
) -> None:
    base, adapter, alone = engine_answers
    assert alone == [base[0], adapter[0], base[1], adapter[1]]


def test_the_base_answers_token_by_token_as_in_transformers(
    reference: Any,
    prompts: list[tuple[int, ...]],
    engine_answers: tuple[list[list[int]], list[list[int]], list[list[int]]],
) -> None:
    with reference.disable_adapter():
        assert engine_answers[0] == generated(reference, prompts)


def test_the_adapter_answers_token_by_token_as_in_peft(
    reference: Any,
    prompts: list[tuple[int, ...]],
    engine_answers: tuple[list[list[int]], list[list[int]], list[list[int]]],
) -> None:
    assert engine_answers[1] == generated(reference, prompts)


def test_what_is_streamed_is_what_the_engine_says(
    walked: Walked, tokenizer: Tokenizer, prompts: list[tuple[int, ...]]
) -> None:
    question = first_questions("philosophy-validation.jsonl")[0]
    messages: Any = [{"role": "user", "content": question}]
    raw = walked.client.chat.completions.with_raw_response.create(
        model="philosophy", messages=messages, temperature=0, max_tokens=8
    )
    assert raw.headers["brie-adapter-version"] == walked.version
    usage = raw.parse().usage
    assert usage is not None
    assert usage.prompt_tokens == len(prompts[0])


def test_the_f16_file_agrees_with_peft(walked: Walked, reference: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = _exported(walked, "f16", tmp_path)
    rows = [json.loads(line)["messages"] for line in (DATA / "philosophy.jsonl").read_text().splitlines()]
    tokens = [token for row in rows for token in tokenizer.encode(tokenizer.render(row, add_generation_prompt=False))][
        :501
    ]
    with torch.inference_mode():
        expected = torch.log_softmax(reference(torch.tensor([tokens])).logits[0].double(), -1).numpy()
    found = _llama_log_probabilities(file, tokens)
    divergence = (np.exp(expected) * (expected - found)).sum(-1)[:500]
    top1 = (expected.argmax(-1) == found.argmax(-1))[:500].mean()
    print(f"mean KL {divergence.mean():.2e}, top-1 {top1:.1%} on {len(divergence)} tokens")
    assert divergence.mean() < 1e-4
    assert top1 > 0.99


def test_the_shipped_file_answers_without_brie(walked: Walked) -> None:
    assert walked.report.file.suffix == ".gguf"
    assert len(walked.report.file_answer) > 40
    assert QUESTION not in walked.report.file_answer


def test_the_version_is_the_one_that_was_trained(walked: Walked) -> None:
    manifest = json.loads((walked.adapter / "brie.json").read_text())
    assert manifest["version"] == walked.version
    assert manifest["job_id"] == walked.report.job_id
    assert manifest["base"]["id"] == walked.report.base
    assert manifest["history"][-1]["full_valid_loss"] == walked.report.losses[-1]
    assert set(manifest["datasets"]) == {"training_file", "validation_file"}


def _exported(walked: Walked, quantization: str, folder: Path) -> Path:
    import time

    from openai import HttpxBinaryResponseContent

    body = {"model": "philosophy", "quantization": quantization}
    export: Any = walked.client.post("/exports", body=body, cast_to=object)
    while export["status"] not in {"succeeded", "failed"}:
        time.sleep(0.3)
        export = walked.client.get(f"/exports/{export['id']}", cast_to=object)
    assert export["status"] == "succeeded", export["error"]
    content = walked.client.get(f"/exports/{export['id']}/content", cast_to=HttpxBinaryResponseContent)
    content.write_to_file(folder / "model.gguf")
    return folder / "model.gguf"


def _llama_log_probabilities(file: Path, tokens: list[int]) -> Any:
    from llama_cpp import Llama

    model = Llama(model_path=str(file), n_ctx=512, n_batch=512, logits_all=True, verbose=False)
    model.eval(tokens)
    logits = torch.from_numpy(np.array(model.scores[: len(tokens)])).double()
    model.close()
    return torch.log_softmax(logits, -1).numpy()

"""Every form in which an adapter ships says what PEFT says: twenty greedy answers, and three prompts to the token.

Two programs add up the same numbers in another order, and a tie falls either way. So an answer may differ from PEFT's
only from a position on at which PEFT's own two best logits in f32 are closer than `GAPS` says; behind it even the right
answer goes on differently, and nothing is compared. Where two answers stay equal past such a position, they are held
to each other to the end. What was compared is counted, and has to be nearly everything.
"""

import asyncio
import itertools
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from brie_client import Brie
from brie_convert.llama_runtime import open_file
from brie_core.settings import Settings
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import resolve_served_model
from brie_core.wire import ExportObject
from brie_processes import BrieProcesses
from brie_server.engine.base import Engine, Prompt, Sampling
from brie_server.engine.factory import create_engine, open_codec
from end_to_end.conftest import Walked
from end_to_end.test_walk import first_questions

pytestmark = pytest.mark.timeout(1200)
NUM_PROMPTS, NUM_TOKENS, STOP = 20, 48, 2
GAPS = {"float32": 0.002, "float16": 0.03}
"""By how the weights are stored: logits differ by less than half of it."""
COMPARED = 0.9
"""The share of PEFT's tokens that has to be before any difference."""
Answers = list[list[int]]
QUESTIONS = [*first_questions("philosophy-validation.jsonl"), *first_questions("philosophy.jsonl")][:NUM_PROMPTS]


@pytest.fixture(scope="module")
def prompts(default_model: BaseModel) -> Answers:
    tokenizer = Tokenizer(default_model.folder)
    turns = ([{"role": "user", "content": question}] for question in QUESTIONS)
    return [tokenizer.encode(tokenizer.render(turn, add_generation_prompt=True)) for turn in turns]


@pytest.fixture(scope="module")
def spoken(default_model: BaseModel, walked: Walked, prompts: Answers) -> tuple[Answers, list[list[float]]]:
    """PEFT's greedy answers in f32, and for each of their tokens how far the best logit was from the second."""
    base = AutoModelForCausalLM.from_pretrained(default_model.folder, dtype=torch.float32)
    return _answers_of(PeftModel.from_pretrained(base, walked.adapter).eval(), prompts)


def _answers_of(model: Any, prompts: Answers) -> tuple[Answers, list[list[float]]]:
    answers, gaps = [], []
    with torch.inference_mode():
        for prompt in prompts:
            out = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=NUM_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            answers.append(out.sequences[0, len(prompt) :].tolist())
            best = torch.stack(out.logits)[:, 0].topk(2).values
            gaps.append((best[:, 0] - best[:, 1]).tolist())
    return answers, gaps


def _assert_agree(found: Answers, spoken: tuple[Answers, list[list[float]]], stored: str, what: str) -> None:
    wanted, gaps = spoken
    compared = 0
    for at, (answer, reference, gap) in enumerate(zip(found, wanted, gaps, strict=True)):
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(answer, reference, strict=False))))
        if same < max(len(answer), len(reference)):
            assert same < len(gap), f"{what}, prompt {at} goes on behind PEFT's end"
            assert gap[same] < GAPS[stored], f"{what}, prompt {at} differs at {same}, where the gap is {gap[same]:.4f}"
        compared += same
    total, equal = sum(map(len, wanted)), sum(a == b for a, b in zip(found, wanted, strict=True))
    print(f"{what}: {compared} of {total} tokens compared (gap {GAPS[stored]}), {equal} of {len(wanted)} answers equal")
    assert compared >= COMPARED * total


@cache
def _exported(client: Brie, model: str, options: tuple[tuple[str, str], ...]) -> ExportObject:
    *_, last = client.exports.follow(client.exports.create(model=model, **dict(options)).id)
    assert last.status == "succeeded", last.error
    return last


@pytest.fixture(scope="module")
def client(walked: Walked) -> Any:
    with Brie(base_url=f"{walked.brie.url}/v1") as opened:
        yield opened


def _settings(walked: Walked, export: ExportObject) -> Settings:
    """As the environment of `BRIE_ENGINE=llamacpp BRIE_MODEL=export-... brie serve` makes them."""
    home = {"BRIE_HOME": str(walked.brie.home), "BRIE_DEVICE": "cpu", "BRIE_DTYPE": "float32"}
    return Settings.from_environment(home | {"BRIE_ENGINE": "llamacpp", "BRIE_MODEL": export.id})


def _served(settings: Settings, prompts: Answers, adapter: tuple[str, Path] | None = None) -> Answers:
    async def answer(engine: Engine, prompt: list[int]) -> list[int]:
        request = Prompt(
            token_ids=tuple(prompt),
            max_tokens=NUM_TOKENS,
            stop_ids=frozenset({STOP}),
            sampling=Sampling(temperature=0),
            adapter=adapter[0] if adapter else None,
        )
        return [token.id async for token in engine.generate(request)]

    async def run() -> Answers:
        engine = create_engine(settings, resolve_served_model(settings))
        try:
            if adapter:
                await engine.load_adapter(*adapter)
            return await asyncio.gather(*(answer(engine, prompt) for prompt in prompts))
        finally:
            await engine.aclose()

    return asyncio.run(run())


def test_the_torch_engine_with_the_adapter_says_what_peft_says(
    walked: Walked, prompts: Answers, spoken: tuple[Answers, list[list[float]]]
) -> None:
    settings = Settings(home=walked.brie.home, dtype="float32", device="cpu")
    found = _served(settings, prompts, (walked.version, walked.adapter))
    _assert_agree(found, spoken, "float32", "torch engine")


@pytest.mark.parametrize(("quantization", "stored"), [("f32", "float32"), ("f16", "float16")])
def test_the_merged_gguf_file_says_in_llama_cpp_what_peft_says(
    walked: Walked,
    client: Brie,
    prompts: Answers,
    spoken: tuple[Answers, list[list[float]]],
    *,
    quantization: str,
    stored: str,
) -> None:
    """Mounted by its export's id, which is how an export is served at once."""
    export = _exported(client, "philosophy", (("quantization", quantization),))
    _assert_agree(_served(_settings(walked, export), prompts), spoken, stored, f"GGUF {quantization}")


def test_the_gguf_adapter_says_over_its_base_what_peft_says(
    walked: Walked, client: Brie, prompts: Answers, spoken: tuple[Answers, list[list[float]]], tmp_path: Path
) -> None:
    adapter = client.exports.download(
        _exported(client, "philosophy", (("format", "gguf_adapter"),)), tmp_path / "adapter.gguf"
    )
    base = client.exports.download(
        _exported(client, walked.report.base, (("quantization", "f16"),)), tmp_path / "base.gguf"
    )
    with open_file(base) as loaded, loaded.adapted(adapter):
        found = [loaded.answer(prompt, NUM_TOKENS) for prompt in prompts]
    whole = [a if len(a) == NUM_TOKENS else [*a, STOP] for a in found]  # it leaves the stop token out
    _assert_agree(whole, spoken, "float16", "GGUF adapter")


def test_the_merged_folder_says_in_transformers_what_peft_says(
    client: Brie, prompts: Answers, spoken: tuple[Answers, list[list[float]]], tmp_path: Path
) -> None:
    """Asked for each next token of PEFT's answers: equal to the end, greedy answers are equal too."""
    export = _exported(client, "philosophy", (("dtype", "f32"), ("format", "merged")))
    model: Any = AutoModelForCausalLM.from_pretrained(client.exports.download_all(export, tmp_path / "merged"))
    found = []
    with torch.inference_mode():
        for prompt, answer in zip(prompts, spoken[0], strict=True):
            logits = model(torch.tensor([prompt + answer])).logits[0]
            found.append(logits[len(prompt) - 1 : -1].argmax(-1).tolist())
    _assert_agree(found, spoken, "float32", "merged folder")


def test_three_prompts_are_the_same_tokens_everywhere(
    walked: Walked, client: Brie, default_model: BaseModel, tmp_path: Path
) -> None:
    conversations = [
        [{"role": "user", "content": QUESTIONS[0]}],
        [
            {"role": "system", "content": "Be brief, as ½ a sage."},
            {"role": "user", "content": "Was heißt “Tugend”? 🧀\n"},
        ],
        [
            {"role": "user", "content": "Count: 1 22 333"},
            {"role": "assistant", "content": "1, 22,\n\n  333."},
            {"role": "user", "content": QUESTIONS[1]},
        ],
    ]
    merged = client.exports.download_all(
        _exported(client, "philosophy", (("dtype", "f32"), ("format", "merged"))), tmp_path / "merged"
    )
    file = _exported(client, "philosophy", (("quantization", "f16"),))
    codec = open_codec(resolve_served_model(_settings(walked, file)))
    ours, theirs = Tokenizer(default_model.folder), AutoTokenizer.from_pretrained(merged)
    for conversation in conversations:
        ids = ours.encode(ours.render(conversation, add_generation_prompt=True))
        assert codec.encode(codec.render(conversation, add_generation_prompt=True)) == ids
        assert theirs.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False) == ids


def test_an_export_whose_process_is_killed_is_made_by_another(tiny_model: Path, tmp_path: Path) -> None:
    import psutil

    brie = BrieProcesses(tmp_path / "home", tiny_model).start("brie_server", "brie_trainer")
    try:
        with Brie(base_url=f"{brie.url}/v1") as client:
            export = client.exports.create(model="tiny", quantization="q4_k_m")
            killed = 0
            deadline = time.monotonic() + 60
            while not killed and time.monotonic() < deadline:
                for process in psutil.process_iter(["cmdline"]):
                    words = process.info["cmdline"] or []
                    if "brie_convert.run" in words and str(brie.home) in words[-1]:
                        process.kill()
                        killed += 1
            *_, last = client.exports.follow(export.id)
            assert (killed, last.status) == (1, "succeeded"), last.error
            told = [event.message for event in client.exports.events(export.id)]
            assert any("trying again" in message for message in told), told
            assert client.exports.download(last, tmp_path / "x.gguf").is_file()
        deadline = time.monotonic() + 30  # the worker tidies behind the last event
        while list((brie.home / "jobs" / export.id).glob("attempts/*/work")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [path.name for path in (brie.home / "exports").iterdir()] == [export.id]
    finally:
        brie.stop_all()

"""On whatever device is here: answers in float32 are those of transformers and PEFT on the CPU, token by token."""

from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from brie_core.weights.lora import read_adapter
from brie_server.engine.base import Prompt, Sampling
from brie_server.engine.torch.device import choose_target
from brie_server.engine.torch.prefix import BLOCK
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.sampler import sample
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence
from server.engine.asking import drive, load, load_kind, make_runner, overflowing, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, FAMILIES, TinyModel, token_ids

NEW = 12
KINDS = (None, "plain", "rslora", "all-linear", None, "patterns", "plain", "one-layer")
LENGTHS = (1, 40, 17, 70, 33, 5, 64, 90)


def a_scheduler(token_budget: int = 4096, **limits: int) -> Scheduler:
    limits = {"chunk_size": 32, "smallest_capacity": 16} | limits
    return Scheduler(Limits(**limits), token_budget=token_budget, context_length=CONTEXT_LENGTH)


def a_runner(model: TinyModel, device: torch.device, dtype: torch.dtype = torch.float32) -> Runner:
    """With all adapters of KINDS, under their names."""
    target = choose_target(device, dtype)
    runner = make_runner(model.base, device, dtype, target.shapes, record=target.record)
    for kind in filter(None, KINDS):
        load_kind(runner, model, kind)
    return runner


def asked(new: int = NEW) -> list[Prompt]:
    both = zip(LENGTHS, KINDS, strict=True)
    return [prompt(token_ids(length, seed), new, adapter=kind) for seed, (length, kind) in enumerate(both)]


@cache
def references(folder: Path, model: TinyModel) -> list[list[int]]:
    """What transformers and PEFT answer on the CPU; `folder` is the model's and tells models apart."""
    return [
        model.reference(each.token_ids, each.max_tokens, model.adapter(each.adapter) if each.adapter else None)
        for each in asked()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_adapters_mixed_answer_as_transformers_at_every_batch_size(
    tiny_models: dict[str, TinyModel], family: str, device: torch.device
) -> None:
    model = tiny_models[family]
    runner, expected = a_runner(model, device), references(model.base.folder, model)
    for max_rows in (1, 3, 8):
        answers, steps = drive(a_scheduler(max_rows=max_rows, max_blocks=0), runner, asked())
        assert answers == expected, max_rows
        assert max(len(step.chunks) for step in steps) == max_rows


def test_recorded_steps_are_replayed(
    tiny_model: TinyModel, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type != "cuda":
        pytest.skip("steps are recorded on CUDA alone")
    replayed: list[torch.cuda.CUDAGraph] = []
    replay = torch.cuda.CUDAGraph.replay

    def counting(graph: torch.cuda.CUDAGraph) -> None:
        replayed.append(graph)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counting)
    answers, _ = drive(a_scheduler(), a_runner(tiny_model, device), asked())
    assert answers == references(tiny_model.base.folder, tiny_model)
    assert replayed


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_prompts_in_chunks_answer_the_same(tiny_model: TinyModel, device: torch.device, chunk_size: int) -> None:
    runner = a_runner(tiny_model, device)
    answers, _ = drive(a_scheduler(chunk_size=chunk_size), runner, asked())
    assert answers == references(tiny_model.base.folder, tiny_model)


def test_a_prompt_that_begins_like_an_earlier_one_answers_the_same(tiny_model: TinyModel, device: torch.device) -> None:
    runner, scheduler = a_runner(tiny_model, device), a_scheduler(token_budget=1024)
    for _ in range(2):
        answers, steps = drive(scheduler, runner, asked())
        assert answers == references(tiny_model.base.folder, tiny_model)
    assert sum(len(restore.blocks) for step in steps for restore in step.restores) >= 90 // BLOCK


def test_preempted_requests_answer_the_same(tiny_model: TinyModel, device: torch.device) -> None:
    runner, asked = a_runner(tiny_model, device), [prompt(token_ids(10, seed), 200) for seed in range(3)]
    undisturbed, _ = drive(a_scheduler(), runner, asked)
    disturbed, steps = drive(a_scheduler(token_budget=256, max_blocks=0), runner, asked)
    starts = [chunk.sequence for step in steps for chunk in step.chunks if chunk.start == 0]
    assert disturbed == undisturbed
    assert len(starts) > len(set(starts))


def test_logits_in_bfloat16_are_near_those_in_float32(
    tiny_model: TinyModel, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def seeing(logits: torch.Tensor, sequences: list[Sequence]) -> list[int | None]:
        seen.append(logits[: len(sequences)].cpu())
        return sample(logits, sequences)

    monkeypatch.setattr("brie_server.engine.torch.runner.sample", seeing)
    ids = token_ids(50)
    drive(a_scheduler(chunk_size=64), a_runner(tiny_model, device, torch.bfloat16), [prompt(ids, 1)])
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model.base.folder, dtype=torch.float32)
    expected_V = model(torch.tensor([ids])).logits[0, -1].detach()
    error = (seen[0][0] - expected_V).abs().max() / expected_V.std()
    assert 0 < error < 0.15


def test_seeded_answers_repeat_whatever_runs_beside_them(tiny_model: TinyModel, device: torch.device) -> None:
    runner, how = a_runner(tiny_model, device), Sampling(seed=7, temperature=0.8, top_p=0.9)
    seeded = prompt(token_ids(20), 40, sampling=how)
    (alone,), _ = drive(a_scheduler(), runner, [seeded])
    for _ in range(2):
        assert drive(a_scheduler(), runner, [*asked(), seeded])[0][-1] == alone


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_a_row_without_numbers_gives_no_token_and_leaves_the_others_alone(
    device: torch.device, temperature: float, top_p: float
) -> None:
    how = [Sampling(seed=seed, temperature=temperature, top_p=top_p) for seed in range(3)]
    sequences = [Sequence(prompt((1,), 5, sampling=each)) for each in how]
    logits = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 50.0, 0.0], [float("inf"), 0.0, 0.0]], device=device)
    assert sample(logits, sequences) == [None, 1, None]


def test_a_sequence_without_numbers_does_not_reach_its_neighbours(tiny_model: TinyModel, device: torch.device) -> None:
    runner = a_runner(tiny_model, device)
    adapter = read_adapter(tiny_model.adapter("plain"), tiny_model.base.linear_modules)
    load(runner, "broken", overflowing(adapter))
    both = [prompt(token_ids(9), NEW, adapter="broken"), *asked()]
    answers, steps = drive(a_scheduler(max_rows=9), runner, both)
    assert answers == [[], *references(tiny_model.base.folder, tiny_model)]
    assert max(len(step.chunks) for step in steps) > 2
